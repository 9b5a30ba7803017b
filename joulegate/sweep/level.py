"""One level of a sweep: Locust keeps so many requests in flight, joulegate says what they cost.

Locust runs as a process of its own (the `loadgen` extra). Of its time the warm-up is left out; in the rest,
energy is what the books charged to requests, tokens those of the records, each answer's spread evenly from
its first token to its end.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from statistics import quantiles
from typing import Any

import httpx

SETTLE_S = 30.0
POLL_S = 0.2
STOP_S = 2
"""How long what is in flight may go on when the time is over; then it is broken off."""

INTERVAL_S = 0.5
"""Length of an interval of the books."""


class SweepError(RuntimeError):
    """The sweep cannot go on; the message says why."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is asked of every level. Times in seconds."""

    url: str
    model: str
    task: str
    like: str
    seconds: float
    warm_up_s: float
    longest: int
    shorter: float
    seed: int


@dataclass(frozen=True, slots=True)
class Level:
    """One level's steady state. None where it cannot be told.

    `requests` ended in it; `energy_joules` is what the books charged to requests in it and `idle_joules` what
    the GPUs drew without any. `client_ttft_ms` is Locust's mean, over all its time.
    """

    in_flight: int
    requests: int
    failures: int
    seconds: float
    tokens: float
    energy_joules: float | None
    idle_joules: float | None
    joules_per_token: float | None
    joules_per_response: float | None
    prefill_part: float | None
    tokens_per_s: float
    power_w: float | None
    ttft_ms: list[float] | None
    """Median and 90th percentile, as joulegate saw them."""
    client_ttft_ms: float | None
    balanced: bool
    simulated: bool


def run(plan: Plan, in_flight: int, directory: Path) -> Level:
    """Run one level; Locust's output is kept in `directory`. Raises SweepError."""
    began_s = time.time()
    rows = _locust(plan, in_flight, directory)
    begin_s = began_s + plan.warm_up_s
    with httpx.Client(base_url=plan.url, timeout=30.0) as client:
        sent = sum(row["num_requests"] for row in rows if row["method"] == "POST")
        records = _settled(client, f"loadgen-{plan.task}", began_s, sent)
        ended = [record["finished_at"] for record in records if record["status"] == "ok"]
        # Locust starts up first, and ends what is in flight last.
        end_s = min(max(ended, default=began_s), began_s + plan.seconds)
        if end_s - begin_s < 2 * INTERVAL_S:
            raise SweepError(f"{in_flight} in flight: nothing is left beside the warm-up; sweep for longer")
        asked = {"start_time": begin_s, "end_time": end_s}
        books: dict[str, Any] = client.get("/v1/energy/books", params=asked).raise_for_status().json()
    return _level(in_flight, rows, records, books["total"])


def _locust(plan: Plan, in_flight: int, directory: Path) -> list[dict[str, Any]]:
    loadgen, name = find_spec("loadgen"), directory / f"locust-{in_flight}"
    if find_spec("locust") is None or loadgen is None or not loadgen.submodule_search_locations:
        raise SweepError("the load generator is not installed: pip install joulegate[loadgen]")
    file = Path(next(iter(loadgen.submodule_search_locations))) / "taskfile.py"
    command = [sys.executable, "-m", "locust", "-f", str(file), "--headless", "--host", plan.url]
    command += [
        "--model",
        plan.model,
        "--like",
        plan.like or plan.model,
        "--seed",
        str(plan.seed),
    ]
    command += ["--longest", str(plan.longest), "--shorter", str(plan.shorter), "--json-file", str(name)]
    command += ["-u", str(in_flight), "-r", str(in_flight), "-t", f"{plan.seconds:g}s", "-s", f"{STOP_S}s"]
    command += [{"chat": "Chat", "reasoning": "ProblemSolving", "code": "CodeCompletion"}[plan.task]]
    with Path(f"{name}.log").open("wb") as log:
        subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False)
    try:
        rows: list[dict[str, Any]] = json.loads(Path(f"{name}.json").read_text())
    except FileNotFoundError as error:
        raise SweepError(f"locust failed: see {name}.log") from error
    if not any(row["method"] == "POST" and row["num_requests"] > row["num_failures"] for row in rows):
        raise SweepError(f"{in_flight} in flight: no request was answered; see {name}.log")
    return rows


def _settled(client: httpx.Client, tenant: str, since_s: float, sent: int) -> list[dict[str, Any]]:
    """The records of all that was sent, once they are there."""
    deadline = time.monotonic() + SETTLE_S
    while True:
        records: list[dict[str, Any]] = []
        asked: dict[str, Any] = {"tenant": tenant, "start_time": since_s, "limit": 1000}
        while True:
            page = client.get("/v1/energy/requests", params=asked).raise_for_status().json()
            records += page["data"]
            if not page["has_more"]:
                break
            asked["after"] = page["next_page"]
        if len(records) >= sent:
            return records
        if time.monotonic() > deadline:
            raise SweepError(f"{len(records)} of {sent} requests were settled after {SETTLE_S:.0f} s")
        time.sleep(POLL_S)


def _level(
    in_flight: int, rows: list[dict[str, Any]], records: list[dict[str, Any]], total: dict[str, Any]
) -> Level:
    begin_s, end_s = total["start_time"], total["end_time"]
    seconds = end_s - begin_s
    tokens = sum(_tokens_in(record, begin_s, end_s) for record in records)
    done = [r for r in records if r["status"] == "ok" and begin_s <= r["finished_at"] < end_s]
    energies = [record["energy_joules"] for record in done if record["energy_joules"] is not None]
    prefills = [record["prefill_joules"] for record in done if record["energy_joules"] is not None]
    waits = [1000 * (r["first_token_at"] - r["started_at"]) for r in done if r["first_token_at"] is not None]
    measured, charged = total["measured_joules"], total["requests_joules"]
    energy = charged if measured is not None else None
    posts = [row for row in rows if row["method"] == "POST"]
    ttft = [row for row in rows if row["method"] == "TTFT" and row["num_requests"]]
    return Level(
        in_flight=in_flight,
        requests=len(done),
        failures=sum(row["num_failures"] for row in posts),
        seconds=seconds,
        tokens=tokens,
        energy_joules=energy,
        idle_joules=total["idle_joules"] if measured is not None else None,
        joules_per_token=energy / tokens if energy is not None and tokens else None,
        joules_per_response=sum(energies) / len(energies) if energies else None,
        prefill_part=sum(prefills) / sum(energies) if energies else None,
        tokens_per_s=tokens / seconds,
        power_w=measured / seconds if measured is not None else None,
        ttft_ms=[quantiles(waits, n=10)[k] for k in (4, 8)] if len(waits) > 1 else None,
        client_ttft_ms=ttft[0]["total_response_time"] / ttft[0]["num_requests"] if ttft else None,
        balanced=total["balanced"],
        simulated=any(record["simulated"] for record in records),
    )


def _tokens_in(record: dict[str, Any], begin_s: float, end_s: float) -> float:
    """Tokens that it made in [begin_s, end_s)."""
    if record["first_token_at"] is None or not record["completion_tokens"]:
        return 0.0
    first_s, last_s = float(record["first_token_at"]), float(record["finished_at"])
    made = float(record["completion_tokens"])
    if last_s <= first_s:
        return made if begin_s <= last_s < end_s else 0.0
    overlap_s = min(last_s, end_s) - max(first_s, begin_s)
    return made * max(0.0, overlap_s) / (last_s - first_s)
