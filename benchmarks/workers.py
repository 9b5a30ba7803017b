"""What more processes bring and cost: requests and chunks per second, CPU of each, the wait at an end.

    python -m benchmarks.workers              1, 2 and 3 processes, a second each
    python -m benchmarks.workers --seconds 5

The load and the mock engine take a core of their own, so that a machine with two cores has hardly room for a
second process: there the CPU of the main process per request tells how many workers it could serve. The last
line is one JSON object; exit status 1 where an answer was wrong.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import click

from benchmarks.rig.driver import Counts, Load, Rig
from benchmarks.rig.processes import TICK_S, tree
from joulegate.process import ProxyProcess
from simulator.gpu.board import H100, Board
from simulator.gpu.library import build

IN_FLIGHT = 64
STREAMS = 100
DRAIN_S = 60.0
WARM_S = 0.5
TRIES = 12
"""Connections of which the latency is taken, one after the other: each comes to one of the processes."""


@click.command(help=__doc__)
@click.option("--seconds", default=1.0, show_default=True, help="How long each load is measured.")
@click.option("--processes", default=(1, 2, 3), multiple=True, show_default=True, help="How many relay.")
def main(seconds: float, processes: tuple[int, ...]) -> None:
    results = []
    with Rig() as rig:
        for count in processes:
            with tempfile.TemporaryDirectory() as directory:
                results.append(_one(rig, Path(directory), count, seconds))
            click.echo("  ".join(f"{name} {value}" for name, value in results[-1].items()))
    failed = sum(result["failed"] for result in results)
    print(json.dumps({"benchmark": "workers", "cores": os.cpu_count(), "results": results}))
    sys.exit(1 if failed else 0)


def _one(rig: Rig, directory: Path, count: int, seconds: float) -> dict[str, Any]:
    Board.create(directory / "board", [H100]).close()
    settings = {
        "backends": [{"id": "engine", "url": rig.engine_url, "gpus": [H100.uuid]}],
        "meter": {"library": str(build(directory))},
        "server": {"port": 0, "workers": count},
    }
    environment = {**os.environ, "JOULEGATE_SIM_BOARD": str(directory / "board")}
    with ProxyProcess(directory / "proxy", settings, environment=environment) as proxy:
        port = int(proxy.url.rsplit(":", 1)[1])
        whole = _load(rig, proxy.pid, Load(port=port, connections=IN_FLIGHT), seconds)
        streams = Load(port=port, connections=STREAMS, tokens=32, streamed=True, lockstep=True)
        streamed = _load(rig, proxy.pid, streams, seconds)
        latency = _latency(rig, proxy.pid, port, count)
    return {
        "processes": count,
        "requests_per_s": whole["per_s"],
        "main_us_per_request": whole["main_us"],
        "workers_us_per_request": whole["workers_us"],
        "p50_ms": whole["p50_ms"],
        "streams_per_s": streamed["per_s"],
        "chunks_per_s": streamed["chunks_per_s"],
        "main_us_per_stream": streamed["main_us"],
        "workers_us_per_stream": streamed["workers_us"],
        **latency,
        "failed": whole["failed"] + streamed["failed"],
    }


def _load(rig: Rig, pid: int, load: Load, seconds: float) -> dict[str, Any]:
    rig.load(load)
    time.sleep(WARM_S)
    rig.window()
    used, before = _cpu_s(pid), rig.sample()
    time.sleep(seconds)
    after, now = rig.sample(), _cpu_s(pid)
    done = rig.finish(DRAIN_S)
    took_s, answers = (after.t_us - before.t_us) / 1e6, max(after.ok - before.ok, 1)
    spent = {one: now[one] - used.get(one, 0.0) for one in now}
    main_s = spent.pop(pid)
    return {
        "per_s": round(answers / took_s),
        "chunks_per_s": round((after.chunks - before.chunks) / took_s),
        "main_us": round(main_s / answers * 1e6),
        "workers_us": round(sum(spent.values()) / answers * 1e6),
        "p50_ms": _ms(done),
        "failed": done.failed,
    }


def _latency(rig: Rig, pid: int, port: int, count: int) -> dict[str, Any]:
    """One request at a time, relayed by the main process and by a worker."""
    found: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(TRIES if count > 1 else 1):
        used = _cpu_s(pid)
        rig.load(Load(port=port))
        time.sleep(WARM_S)
        rig.window()
        time.sleep(WARM_S)
        done = rig.finish(DRAIN_S)
        now = _cpu_s(pid)
        spent = {one: now[one] - used.get(one, 0.0) for one in now}
        main_s = spent.pop(pid)
        if (took_ms := _ms(done)) is not None:
            # The main process accounts for all; a worker that relayed nothing has hardly done anything.
            found[max(spent.values(), default=0.0) < main_s / 4].append(took_ms)
    return {
        "alone_by_main_p50_ms": _middle(found[True]),
        "alone_by_worker_p50_ms": _middle(found[False]),
    }


def _middle(values: list[float]) -> float | None:
    return round(median(values), 2) if values else None


def _ms(seen: Counts) -> float | None:
    return None if seen.whole_us.p50_us is None else round(seen.whole_us.p50_us / 1e3, 2)


def _cpu_s(pid: int) -> dict[int, float]:
    """User and system time of each process, without those that read the GPU."""
    found = {}
    for one in tree(pid):
        command = Path(f"/proc/{one}/cmdline").read_bytes()
        fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
        if b"accounting.meters" not in command:
            found[one] = (int(fields[11]) + int(fields[12])) * TICK_S
    return found


if __name__ == "__main__":
    main()
