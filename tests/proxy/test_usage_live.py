"""A real proxy on a simulated GPU: usage, costs, report, FOCUS and records tell the same microjoules."""

from __future__ import annotations

import csv
import io
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from click.testing import CliRunner
from openai import OpenAI

from joulegate.cli import main
from simulator.process import SimulatedEngine
from tests.proxy.stack import Stack, chat, metered, running, until

BILLING = {
    "currency": "EUR",
    "idle": "by_use",
    "unattributed": "by_use",
    "overhead": "by_use",
    "tariffs": [{"name": "standard", "price_per_kwh": 0.3}],
}


def invoked(directory: Path, *words: str) -> str:
    done = CliRunner().invoke(main, [*words, "--config", str(directory / "joulegate.yaml")])
    assert done.exit_code == 0, done.output
    return done.stdout


def as_charged(stack: Stack, count: int) -> list[dict[str, Any]] | None:
    """All records, once they are what the books gave."""
    records = stack.records()
    charged_uj = sum(record["energy_uj"] or 0 for record in records)
    whole = len(records) == count and all(record["state"] == "final" for record in records)
    return records if whole and charged_uj == stack.books()["requests_uj"] else None


def test_usage_costs_report_focus_and_records_are_one(simulated: SimulatedEngine, tmp_path: Path) -> None:
    # Wrong only for who runs this while a month ends.
    today = datetime.now(UTC)
    start_s = int(datetime(today.year, today.month, 1, tzinfo=UTC).timestamp())
    month = f"{today:%Y-%m}"
    settings = metered(simulated, pue=1.2, billing=BILLING, carbon={"location_g_per_kwh": 400})
    with running(tmp_path, settings) as stack:
        for number in range(6):
            project = ("lab", "web")[number % 2]
            stack.post(
                chat(max_tokens=30), request_id=f"r{number}", x_joulegate_tenant=project
            ).raise_for_status()
        records = until(lambda: as_charged(stack, 6), "six records that are what the books gave")
        client = OpenAI(base_url=f"{stack.proxy.url}/v1", api_key="none", admin_api_key="none", max_retries=0)
        usage = client.admin.organization.usage
        asked: dict[str, Any] = {"start_time": start_s, "limit": 31, "group_by": ["project_id", "model"]}
        told: list[Any] = [result for bucket in usage.completions(**asked).data for result in bucket.results]
        costs: list[Any] = [
            result
            for bucket in usage.costs(start_time=start_s, limit=31, group_by=["project_id", "line_item"]).data
            for result in bucket.results
        ]
        client.close()
        report = json.loads(
            invoked(tmp_path, "report", "--month", month, "--by", "project", "--format", "json")
        )
        rows = list(csv.DictReader(io.StringIO(invoked(tmp_path, "export", "focus", "--month", month))))
    raw = {
        project: sum(record["energy_uj"] for record in records if record["tenant"] == project)
        for project in ("lab", "web")
    }
    assert min(raw.values()) > 0
    assert {result.project_id: result.energy_uj for result in told} == raw
    assert {r.project_id: r.energy_uj for r in costs if r.line_item.endswith("gpu_energy")} == raw
    assert {row["project"]: round(float(row["energy_joules"]) * 1e6) for row in report["usage"]} == raw
    focus_uj = {
        project: sum(
            round(float(row["x_EnergyJoules"]) * 1e6)
            for row in rows
            if (row["x_Component"], row["SubAccountId"]) == ("gpu", project)
        )
        for project in raw
    }
    assert focus_uj == raw
    assert sum(result.output_tokens for result in told) == sum(
        record["completion_tokens"] for record in records
    )
    assert all(result.cost["value"] > 0 and result.carbon_grams_location > 0 for result in told)
