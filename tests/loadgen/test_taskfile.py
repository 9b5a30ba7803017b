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

from loadgen.rows import Row, gap_ms
from simulator.process import SimulatedEngine

FILE = Path(__file__).parents[2] / "loadgen" / "taskfile.py"
CLASSES = {
    "chat": "Chat",
    "reasoning": "ProblemSolving",
    "code": "CodeCompletion",
    "image-chat": "ImageChat",
    "video-chat": "VideoChat",
}

Rows = dict[tuple[str, str], dict[str, Any]]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimulatedEngine]:
    options = ["--max-num-seqs", "2"]
    with SimulatedEngine(tmp_path_factory.mktemp("e"), model="tiny", options=options, library=False) as one:
        yield one


def locust(engine: SimulatedEngine, directory: Path, *options: str) -> Rows:
    command = [sys.executable, "-m", "locust", "-f", str(FILE), "--headless", "--host", engine.url]
    command += ["--model", "tiny", "--json-file", str(directory / "load"), "-s", "30s"]
    ran = subprocess.run([*command, *options], capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    found = json.loads((directory / "load.json").read_text())
    return {(row["method"], row["name"]): row for row in found}


def served(engine: SimulatedEngine) -> dict[str, dict[str, Any]]:
    """What the engine says of each request, by its name."""
    return {one["request_id"]: one for one in httpx.get(f"{engine.url}/simulator/truth").json()["data"]}


def lines(directory: Path, worker: int = 0) -> list[Row]:
    return [
        Row(**json.loads(line)) for line in (directory / f"requests-{worker}.jsonl").read_text().splitlines()
    ]


def test_a_closed_loop_serves_the_language_tasks_and_writes_what_it_saw(
    engine: SimulatedEngine, tmp_path: Path
) -> None:
    options = ("--shorter", "0.05", "-u", "5", "-r", "5", "-t", "2s", "--rows", str(tmp_path / "rows"))
    table = locust(engine, tmp_path, *options, *CLASSES.values())
    truth, seen = served(engine), lines(tmp_path / "rows")
    for task in CLASSES:
        own = [row for row in seen if row.task == task]
        assert table["POST", task]["num_requests"] == len(own) > 0
        assert table["POST", task]["num_failures"] == 0
        assert ("late", task) not in table
        tokens = table["tokens", task]["total_response_time"]
        assert tokens == sum(row.tokens or 0 for row in own)
        for row in own:
            account = truth[row.id]
            assert row.status == "ok"
            assert row.tokens == row.wanted == account["completion_tokens"]
            assert row.prompt_tokens == account["prompt_tokens"]
            assert row.first_at is not None
            assert row.last_at is not None
            assert row.ended_at is not None
            assert row.sent_at == row.intended_at < row.first_at <= row.last_at <= row.ended_at
            assert sum(row.gaps.values()) == row.chunks - 1
            assert row.chunks <= account["completion_tokens"]
        slowest = max(own, key=lambda row: row.chunks)
        assert (gap_ms({int(k): v for k, v in slowest.gaps.items()}, 0.5) or 0) > 0
    health = json.loads((tmp_path / "rows" / "worker-0.json").read_text())
    assert health["requests"] <= len(seen)
    assert 0 < health["cpu_share"] < 1.5


def test_an_open_loop_sends_on_time_whatever_the_server_does(engine: SimulatedEngine, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    trace.write_text("".join(f"{0.02 * number}\n" for number in range(60)))
    options = ("--shorter", "0.2", "--arrivals", str(trace), "--rate", "2", "-u", "1", "-t", "4s", "Chat")
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
    options = ("--shorter", "0.02", "--arrivals", "constant", "--rate", "10", "-u", "1", "-t", "2s")
    rows = locust(engine, tmp_path, *options, "CodeCompletion")
    assert 0 < rows["POST", "code"]["num_requests"] <= 30


def test_several_processes_share_arrivals_and_the_number_of_requests(
    engine: SimulatedEngine, tmp_path: Path
) -> None:
    common = ("--shorter", "0.02", "--arrivals", "constant", "--rate", "40", "--requests", "21", "-u", "1")
    counts = []
    for share in (0, 1):
        told = ("--share", f"{share}/2", "--rows", str(tmp_path), "-t", "2s", "CodeCompletion")
        rows = locust(engine, tmp_path, *common, *told)
        assert rows["POST", "code"]["num_failures"] == 0
        counts.append(len(lines(tmp_path, share)))
    assert counts == [11, 10]
    prompts = [{row.prompt_tokens for row in lines(tmp_path, share)} for share in (0, 1)]
    assert prompts[0] != prompts[1]
