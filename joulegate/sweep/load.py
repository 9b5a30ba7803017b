"""One level's load: Locust processes of loadgen/taskfile.py, watched while they run, ended in time.

Several processes share the load (--share K/N); each is a Locust of its own, as Locust's own workers give
answers in flight no time to end. Each writes a line per request, which is all that is read of them.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from joulegate.sweep import keys
from joulegate.sweep.plan import TASKS, Plan, SweepError

POLL_S = 0.25
ASK_S = 5.0
"""How often it is asked whether enough is known."""

START_S = 30.0
"""Longest time that Locust takes to start and to end, beside the level's own."""


@dataclass(frozen=True, slots=True)
class Load:
    """What was sent. `rows` are as in loadgen/rows.py, `health` as in loadgen/watch.py, one per process."""

    began_s: float
    rows: list[dict[str, Any]]
    health: list[dict[str, Any]]
    stopped_by: str


def run(
    plan: Plan,
    level: float,
    directory: Path,
    progress: Callable[[int, int], None],
    enough: Callable[[], bool] | None,
) -> Load:
    """Send until the level ends. `progress` is told how many were answered and failed; `enough` is asked from
    time to time whether to stop. Raises SweepError where nothing could be sent.
    """
    loadgen = find_spec("loadgen")
    if find_spec("locust") is None or loadgen is None or not loadgen.submodule_search_locations:
        raise SweepError("the load generator is not installed: pip install joulegate[loadgen]")
    taskfile = Path(next(iter(loadgen.submodule_search_locations))) / "taskfile.py"
    directory.mkdir(parents=True, exist_ok=True)
    for old in directory.iterdir():
        old.unlink()
    began_s = time.time()
    workers = [
        _start(
            [sys.executable, "-m", "locust", "-f", str(taskfile), *options],
            directory / f"locust-{number}.log",
        )
        for number, options in enumerate(_options(plan, level, directory))
    ]
    try:
        stopped_by = _watch(plan, workers, directory, progress, enough)
    finally:
        for worker in workers:
            if worker.poll() is None:
                worker.kill()
            worker.wait()
    rows, health = read_rows(directory), read_health(directory)
    if not any(row["status"] == "ok" for row in rows):
        wrong = {row["error"] for row in rows if row["error"]} or {_last_line(directory / "locust-0.log")}
        why = "; ".join(sorted(wrong))
        raise SweepError(
            f"level {level:g}: no request was answered ({why}){keys.hint(wrong)}; see {directory}"
        )
    return Load(began_s, rows, health, stopped_by)


def _start(command: list[str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as file:
        # The pipe closes with this process, however it ends: no load goes on without it.
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=keys.environment_to_send(),
        )


def _options(plan: Plan, level: float, directory: Path) -> list[list[str]]:
    """Of each process. In a closed loop the users are dealt out; in an open one each has its part of
    the times.
    """
    workers = min(plan.workers, int(level)) if plan.closed else plan.workers
    common = ["--headless", "--only-summary", "--until-stdin-ends", "--host", plan.url, "--model", plan.model]
    common += ["--rows", str(directory), "--send-s", f"{plan.seconds:g}", "-s", f"{plan.drain_s:g}s"]
    common += [
        "--like",
        plan.like or plan.model,
        "--longest",
        str(plan.longest),
        "--shorter",
        str(plan.shorter),
    ]
    common += ["--seed", str(plan.seed), "--requests", str(plan.requests), "--arrivals", plan.arrivals]
    found = []
    for number in range(workers):
        users = len(range(number, int(level), workers)) if plan.closed else 1
        share = ["--share", f"{number}/{workers}", "-u", str(users), "-r", str(users)]
        if not plan.closed:
            share += ["--rate", f"{level:g}"]
        found.append([*common, *share, *plan.load_options, TASKS[plan.task]])
    return found


def _watch(
    plan: Plan,
    workers: list[subprocess.Popen[bytes]],
    directory: Path,
    progress: Callable[[int, int], None],
    enough: Callable[[], bool] | None,
) -> str:
    """Wait for the end; what brought it."""
    deadline = time.monotonic() + plan.seconds + plan.drain_s + START_S
    asked, stopped_by, counts = time.monotonic(), "time", Counts(directory)
    while any(worker.poll() is None for worker in workers):
        now = time.monotonic()
        if now > deadline:
            raise SweepError(f"locust did not end after {plan.seconds + plan.drain_s + START_S:.0f} s")
        progress(*counts.look())
        wanted = None
        if plan.requests and counts.ended >= plan.requests:
            wanted = "requests"
        elif enough is not None and now - asked > ASK_S and stopped_by == "time":
            asked = now
            wanted = "precision" if enough() else None
        if wanted is not None and stopped_by == "time":
            stopped_by = wanted
            for worker in workers:
                if worker.poll() is None:
                    os.kill(worker.pid, signal.SIGTERM)
        time.sleep(POLL_S)
    progress(*counts.look())
    return stopped_by


class Counts:
    """Counts lines of the rows as they are written, without reading any twice."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._read: dict[Path, int] = {}
        self.ended = self.failed = 0

    def look(self) -> tuple[int, int]:
        for path in self._directory.glob("requests-*.jsonl"):
            with path.open("rb") as file:
                file.seek(self._read.get(path, 0))
                fresh = file.read()
            self._read[path] = self._read.get(path, 0) + len(fresh)
            self.ended += fresh.count(b"\n")
            self.failed += fresh.count(b'"status": "failed"')
        return self.ended, self.failed


def read_rows(directory: Path) -> list[dict[str, Any]]:
    """All whole lines of all processes."""
    rows: list[dict[str, Any]] = []
    for path in sorted(directory.glob("requests-*.jsonl")):
        rows += [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]
    return rows


def read_health(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(directory.glob("worker-*.json"))]


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "locust said nothing"
