"""Locust against the simulated engine behind joulegate: what it counts agrees with the records."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from joulegate.process import ProxyProcess
from simulator.process import SimulatedEngine

LOCUSTFILE = Path(__file__).parents[2] / "loadgen" / "locustfile.py"


class Row(NamedTuple):
    """One row of Locust's statistics; `mean` is of its "response time", whatever that stands for."""

    requests: int
    failures: int
    mean: float


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimulatedEngine]:
    with SimulatedEngine(tmp_path_factory.mktemp("engine"), model="tiny") as running:
        yield running


@pytest.fixture(scope="module")
def proxy(engine: SimulatedEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProxyProcess]:
    settings = {
        "backends": [{"id": "simulated", "url": engine.url}],
        "meter": {"library": str(engine.library)},
    }
    with ProxyProcess(tmp_path_factory.mktemp("proxy"), settings) as running:
        yield running


def locust(host: str, directory: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--headless", "--host", host]
    command += ["--json-file", str(directory / "load"), "--stop-timeout", "20s", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def rows(directory: Path) -> dict[tuple[str, str], Row]:
    """What Locust counted, by type and name."""
    found = json.loads((directory / "load.json").read_text())
    return {
        (row["method"], row["name"]): Row(
            row["num_requests"], row["num_failures"], row["total_response_time"] / row["num_requests"]
        )
        for row in found
    }


def records(proxy: ProxyProcess, tenant: str, least: int) -> list[dict[str, Any]]:
    """The settled records of a tenant, once there are at least that many."""
    deadline = time.monotonic() + 20
    while True:
        answer = httpx.get(f"{proxy.url}/v1/energy/requests", params={"tenant": tenant, "limit": 1000})
        data: list[dict[str, Any]] = answer.raise_for_status().json()["data"]
        if len(data) >= least:
            return data
        assert time.monotonic() < deadline, f"{len(data)} of {least} records are there"
        time.sleep(0.05)


def test_locust_counts_what_joulegate_recorded(proxy: ProxyProcess, tmp_path: Path) -> None:
    ran = locust(proxy.url, tmp_path, "--model", "tiny", "-u", "4", "-r", "4", "-t", "2s")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    table = rows(tmp_path)
    for kind in ("chat", "code"):
        count = table["POST", kind].requests
        recorded = records(proxy, f"loadgen-{kind}", count)
        assert {record["status"] for record in recorded} == {"ok"}
        assert count == len(recorded) > 0
        assert table["POST", kind].failures == 0
        tokens = sum(record["completion_tokens"] for record in recorded)
        assert table["tokens", kind].mean == pytest.approx(tokens / count)
        assert 0 < table["TTFT", kind].mean < table["POST", kind].mean
        assert table["mJ now", kind].requests > 0
        millijoules = 1000 * sum(record["energy_joules"] for record in recorded)
        assert table["mJ", kind].requests == count
        assert table["mJ", kind].mean == pytest.approx(millijoules / count)


def test_a_refused_request_is_a_failure(engine: SimulatedEngine, tmp_path: Path) -> None:
    ran = locust(engine.url, tmp_path, "--model", "unknown", "-u", "1", "-r", "1", "-t", "1s", "CodeUser")
    assert ran.returncode == 1, ran.stdout + ran.stderr
    row = rows(tmp_path)["POST", "code"]
    assert row.failures == row.requests > 0
    assert ("tokens", "code") not in rows(tmp_path)
