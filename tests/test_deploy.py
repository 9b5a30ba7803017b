"""What compose.yaml starts fits together, and what is watched there exists."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
METRIC = re.compile(r"\b(?:joulegate|gen_ai|hw)_[a-z_]+")


def expressions() -> Iterator[str]:
    dashboard = json.loads((DEPLOY / "grafana/dashboards/joulegate.json").read_text())
    for panel in dashboard["panels"]:
        yield from (target["expr"] for target in panel["targets"])
    rules = yaml.safe_load((DEPLOY / "prometheus/joulegate.rules.yml").read_text())
    for group in rules["groups"]:
        yield from (rule["expr"] for rule in group["rules"])


def test_what_is_watched_is_a_metric_that_the_operators_page_names() -> None:
    told = set(METRIC.findall((ROOT / "docs/operations.md").read_text()))
    used = {name for expression in expressions() for name in METRIC.findall(expression)}
    assert len(used) > 10
    unknown = {name for name in used if name not in told and name.removesuffix("_bucket") not in told}
    assert unknown == set()


def test_volumes_services_and_files_that_are_named_are_there() -> None:
    for name, service in SERVICES.items():
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            assert (ROOT / source).exists() if source.startswith(".") else source in COMPOSE["volumes"], name
        needed = service.get("depends_on", ())
        assert set(needed) <= set(SERVICES), name
        assert service["image"], name


def test_without_a_profile_a_simulated_engine_is_measured_stored_and_watched() -> None:
    without = {name for name, service in SERVICES.items() if not service.get("profiles")}
    assert without == {"simulator", "joulegate", "postgres", "prometheus", "grafana"}


@pytest.mark.parametrize("name", ["joulegate", "joulegate-gpu"])
def test_both_joulegates_store_in_the_database_that_is_there(name: str) -> None:
    url = SERVICES[name]["environment"]["JOULEGATE_DATABASE_URL"]
    database = SERVICES["postgres"]["environment"]
    assert url.startswith(
        f"postgresql://{database['POSTGRES_USER']}:{database['POSTGRES_PASSWORD']}@postgres/"
    )
    assert url.endswith(f"/{database['POSTGRES_DB']}")


def test_prometheus_finds_both_joulegates_and_grafana_finds_prometheus() -> None:
    (scrape,) = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())["scrape_configs"]
    (found,) = scrape["dns_sd_configs"]
    assert SERVICES["joulegate"]["network_mode"] == "service:simulator"
    assert set(found["names"]) == {"simulator", "joulegate-gpu"}
    (source,) = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/prometheus.yml").read_text())[
        "datasources"
    ]
    assert source["url"] == "http://prometheus:9090"
    dashboard = json.loads((DEPLOY / "grafana/dashboards/joulegate.json").read_text())
    assert {panel["datasource"]["uid"] for panel in dashboard["panels"]} == {source["uid"]}
