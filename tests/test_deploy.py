"""What compose.yaml starts fits together, and what is watched there exists."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from simulator.process import SimulatedEngine
from tests.proxy.access.keyed import asked, guarded, keyed, new_key

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
METRIC = re.compile(r"\b(?:joulegate|gen_ai|hw)_[a-z_]+")
RULES: list[dict[str, Any]] = [
    rule
    for group in yaml.safe_load((DEPLOY / "prometheus/joulegate.rules.yml").read_text())["groups"]
    for rule in group["rules"]
]
FROM_PROMETHEUS = {"instance", "job", "le"}


def expressions() -> Iterator[str]:
    dashboard = json.loads((DEPLOY / "grafana/dashboards/joulegate.json").read_text())
    for panel in dashboard["panels"]:
        yield from (target["expr"] for target in panel["targets"])
    yield from (rule["expr"] for rule in RULES)


@pytest.fixture(scope="module")
def given(simulated: SimulatedEngine, tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """What /metrics of a proxy with keys gives after a request: labels by the name of the series."""
    with keyed(tmp_path_factory.mktemp("deploy"), guarded(simulated)) as stack:
        _, secret = new_key(stack, limits={"joules_per_day": 1e6})
        assert asked(stack, secret, stream=True).status_code == 200
        stack.stored(1)
        text = stack.client.get("/metrics").raise_for_status().text
    labels: defaultdict[str, set[str]] = defaultdict(set)
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels[sample.name] |= set(sample.labels)
    return dict(labels)


def test_what_is_watched_is_a_metric_that_the_operators_page_names() -> None:
    told = set(METRIC.findall((ROOT / "docs/operations.md").read_text()))
    used = {name for expression in expressions() for name in METRIC.findall(expression)}
    assert len(used) > 10
    unknown = {name for name in used if name not in told and name.removesuffix("_bucket") not in told}
    assert unknown == set()


def test_what_is_watched_is_what_metrics_really_gives(given: dict[str, set[str]]) -> None:
    recorded = {rule["record"] for rule in RULES if "record" in rule}
    for expression in expressions():
        bare = re.sub("|".join(map(re.escape, recorded)), "", expression)
        names = set(METRIC.findall(re.sub(r"\{[^}]*\}", "", bare)))
        assert names <= set(given), expression
        for name, selector in re.findall(rf"({METRIC.pattern})\{{([^}}]*)\}}", bare):
            assert set(re.findall(r"(\w+)!?=", selector)) <= given[name], expression
        for group in re.findall(r"\bby \(([^)]*)\)", bare):
            wanted = set(re.split(r",\s*", group)) - FROM_PROMETHEUS
            assert all(wanted <= given[name] for name in names), expression


def test_an_alert_names_labels_that_its_series_have(given: dict[str, set[str]]) -> None:
    recorded = {rule["record"]: rule["expr"] for rule in RULES if "record" in rule}
    for rule in RULES:
        if "alert" not in rule:
            continue
        expression = rule["expr"]
        for name, text in recorded.items():
            expression = expression.replace(name, text)
        told = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
        assert any(told <= given[name] for name in METRIC.findall(expression)), rule["alert"]


def test_there_is_an_alert_for_everything_that_must_not_go_unseen() -> None:
    alerts = {rule["alert"].removeprefix("Joulegate") for rule in RULES if "alert" in rule}
    wanted = {"BooksUnbalanced", "MeterDown", "MeterStale", "BudgetNear", "JoulesPerTokenDrift"}
    assert wanted <= alerts
    told = (ROOT / "docs/operations.md").read_text()
    assert {name for name in alerts if f"`Joulegate{name}`" not in told} == set()


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool, which comes with Prometheus")
def test_alerts_fire_when_they_should_and_only_then() -> None:
    cases = ROOT / "tests/joulegate.rules.test.yml"
    subprocess.run(["promtool", "test", "rules", str(cases)], check=True, capture_output=True)


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
