"""The paper's tasks under Locust against the simulated engine, in a closed and an open loop."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from simulator.process import SimulatedEngine

FILE = Path(__file__).parents[2] / "loadgen" / "taskfile.py"


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimulatedEngine]:
    options = ["--max-num-seqs", "2"]
    with SimulatedEngine(tmp_path_factory.mktemp("e"), model="tiny", options=options, library=False) as one:
        yield one


def locust(engine: SimulatedEngine, directory: Path, *options: str) -> dict[tuple[str, str], dict[str, Any]]:
    command = [sys.executable, "-m", "locust", "-f", str(FILE), "--headless", "--host", engine.url]
    command += ["--model", "tiny", "--json-file", str(directory / "load"), "-s", "30s", *options]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    found = json.loads((directory / "load.json").read_text())
    return {(row["method"], row["name"]): row for row in found}


@pytest.mark.parametrize("task", ["chat", "reasoning", "code"])
def test_a_closed_loop_serves_the_task(engine: SimulatedEngine, tmp_path: Path, task: str) -> None:
    before = httpx.get(f"{engine.url}/simulator/truth").json()["data"]
    rows = locust(engine, tmp_path, "--task", task, "--shorter", "0.05", "-u", "3", "-r", "3", "-t", "2s")
    served = httpx.get(f"{engine.url}/simulator/truth").json()["data"][len(before) :]
    assert rows["POST", task]["num_requests"] == len(served) > 0
    assert rows["POST", task]["num_failures"] == 0
    tokens = rows["tokens", task]
    assert tokens["total_response_time"] == sum(account["completion_tokens"] for account in served)
    assert ("late", task) not in rows


def test_an_open_loop_sends_on_time_whatever_the_server_does(engine: SimulatedEngine, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    trace.write_text("".join(f"{0.01 * number}\n" for number in range(60)))
    options = ("--task", "chat", "--shorter", "0.2", "--arrivals", str(trace), "-u", "1", "-t", "4s")
    rows = locust(engine, tmp_path, *options)
    posts, late = rows["POST", "chat"], rows["late", "chat"]
    assert posts["num_requests"] == late["num_requests"] == 60
    assert posts["num_failures"] == 0
    # Two sequences at a time serve 60 requests far more slowly than they come: the delay must show.
    first, last = posts["min_response_time"], posts["max_response_time"]
    assert last > 3 * first
    assert rows["TTFT", "chat"]["max_response_time"] > 3 * late["max_response_time"]


def test_an_open_loop_without_an_end_stops_sending_when_the_time_is_over(
    engine: SimulatedEngine, tmp_path: Path
) -> None:
    options = ("--task", "code", "--shorter", "0.02", "--arrivals", "constant", "--rate", "10")
    rows = locust(engine, tmp_path, *options, "-u", "1", "-t", "2s")
    assert 0 < rows["POST", "code"]["num_requests"] <= 30
