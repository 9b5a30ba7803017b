"""joulegate in front of a real engine on the GPU: do the books balance, how well does the work model fit, and
does a known class of requests cost what an A/B says it costs?

The A/B sends the same background traffic twice, once with a class of alike requests added. What the counter
shows more the second time is what the class added, idle power left out, as that flows in both; beside it
stands what joulegate charged to the class above idle power. Where requests share steps these differ by right:
the sharing makes the background cheaper. So the class is one that shares little (traffic.py), and what the
background was charged more or less is told as well.
"""

from __future__ import annotations

import math
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import httpx

from benchmarks.gpucheck import engine as engines
from benchmarks.gpucheck.model import Size
from benchmarks.gpucheck.traffic import Ask, Sent, known_class, mixed, send_all
from joulegate.process import ProxyProcess

START_S = 240.0
SETTLE_S = 15.0
INTERVAL_S = 0.5
"""Of the books (accounting/ledger): windows are whole ones."""


@dataclass(frozen=True)
class Plan:
    """How much traffic. `scale` shortens prompts and answers, for a rehearsal on a CPU."""

    learn_s: float
    window_s: float
    arrivals_s: float
    pairs: int
    per_s: float
    every_s: float
    scale: float = 1.0


@dataclass(frozen=True)
class Half:
    """One window of traffic, energies in joules as booked and charged."""

    measured_j: float
    requests_j: float
    idle_j: float
    unobserved_j: float
    unmeasured_j: float
    background_j: float
    background_uncertainty_j: float
    known_j: float
    known_dynamic_j: float
    known_uncertainty_j: float
    requests: int
    failed: int
    late: int
    """Requests that ended after the window: then the two halves cannot be compared."""


@dataclass(frozen=True)
class Pair:
    without: Half
    with_known: Half

    @property
    def difference_j(self) -> float:
        return self.with_known.measured_j - self.without.measured_j


class Engine:
    """The engine's process. `board` makes it draw power on a simulated GPU."""

    def __init__(self, log: Path, size: Size, device: str, board: Path | None) -> None:
        self._log = log.open("wb")
        command = [sys.executable, "-m", engines.__name__, "--size", size, "--device", device]
        command += ["--board", str(board)] if board is not None else []
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=self._log, stderr=subprocess.STDOUT
        )
        self.url = self._wait(log)

    def _wait(self, log: Path) -> str:
        deadline_s = time.monotonic() + START_S
        while True:
            for line in log.read_text(errors="replace").splitlines():
                if line.startswith(engines.READY):
                    return line.removeprefix(engines.READY)
            if self._process.poll() is not None or time.monotonic() > deadline_s:
                self.close()
                raise RuntimeError(f"the engine does not start:\n{log.read_text(errors='replace')[-3000:]}")
            time.sleep(0.1)

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()


@contextmanager
def running(
    directory: Path, size: Size, device: str, library: Path | None, board: Path | None, lag_us: float
) -> Iterator[ProxyProcess]:
    """The engine and the proxy in front of it, which is told the counter's lag."""
    engine = Engine(directory / "engine.log", size, device, board)
    try:
        settings = {
            "backends": [{"id": "transformers", "url": engine.url}],
            "meter": {
                "counter_lag_ms": max(lag_us, 0.0) / 1000,
                **({"library": str(library)} if library is not None else {}),
            },
        }
        with ProxyProcess(directory / "joulegate", settings, ready_s=120.0) as proxy:
            yield proxy
    finally:
        engine.close()


def check(proxy: ProxyProcess, plan: Plan) -> dict[str, Any]:
    """Let the model learn, then the pairs, then the proof of the books."""
    began_s = time.time()
    learnt = send_all(proxy.url, engines.NAME, mixed(plan.learn_s, plan.per_s, seed=11, scale=plan.scale))
    _settled(proxy, began_s, len(learnt))
    pairs = []
    for number in range(plan.pairs):
        background = mixed(plan.arrivals_s, plan.per_s, seed=100 + number, scale=plan.scale)
        added = known_class(plan.arrivals_s, plan.every_s, plan.scale)
        halves = [("without", background), ("with", [*background, *added])]
        found = {
            name: _half(proxy, asks, plan.window_s)
            for name, asks in (halves if number % 2 == 0 else halves[::-1])
        }
        pairs.append(Pair(found["without"], found["with"]))
    ended_s = time.time()
    total = _get(proxy, "/v1/energy/books", start_time=began_s, end_time=ended_s)["total"]
    records = _records(proxy, began_s, ended_s)
    qualities = [record["quality"] for record in records if record["quality"] is not None]
    return {
        "books": {
            key: total[key]
            for key in ("measured_uj", "requests_uj", "idle_uj", "unobserved_uj", "unmeasured_uj", "balanced")
        },
        "covered_s": total["covered_seconds"],
        "not_covered_s": total["not_covered_seconds"],
        "requests": len(records),
        "failed": sum(record["status"] != "ok" for record in records),
        "work_model_residual": {
            "of": "relative error over one second, of late, as `quality` of the records tells",
            "after_learning": _quality_at(records, learnt),
            "last": qualities[0] if qualities else None,
        },
        "ab": _compare(pairs),
        "pairs": [asdict(pair) for pair in pairs],
    }


def audit(directory: Path) -> dict[str, Any]:
    """`joulegate audit` of the data: its exit status and its last line."""
    command = [sys.executable, "-m", "joulegate", "audit", str(directory / "joulegate" / "data")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = (done.stdout + done.stderr).strip().splitlines()
    return {"exit_status": done.returncode, "says": lines[-1] if lines else ""}


def _compare(pairs: list[Pair]) -> dict[str, Any]:
    """The difference by counter, the class's attributed sum, and what changed for the background and idle.

    difference = charged + background_change + idle_change + unobserved, by the books: that it adds up proves
    nothing. The figure to look at is charged_dynamic over the difference.
    """
    differences = [pair.difference_j for pair in pairs]
    charged = [pair.with_known.known_j for pair in pairs]
    shifts = [pair.with_known.background_j - pair.without.background_j for pair in pairs]
    idles = [pair.with_known.idle_j - pair.without.idle_j for pair in pairs]
    dynamic_j = mean(pair.with_known.known_dynamic_j for pair in pairs)
    several = len(pairs) > 1
    return {
        "pairs": len(pairs),
        "difference_j": mean(differences),
        "difference_se_j": stdev(differences) / math.sqrt(len(pairs)) if several else None,
        "charged_j": mean(charged),
        "charged_dynamic_j": dynamic_j,
        "background_change_j": mean(shifts),
        "idle_change_j": mean(idles),
        "dynamic_over_difference": dynamic_j / mean(differences) if mean(differences) > 0 else None,
    }


def _half(proxy: ProxyProcess, asks: list[Ask], window_s: float) -> Half:
    """Send the asks within one window of whole intervals, and add up what became of its energy."""
    start_s = math.ceil(time.time() / INTERVAL_S + 1) * INTERVAL_S
    time.sleep(start_s - time.time())
    sent = send_all(proxy.url, engines.NAME, asks)
    end_s = start_s + window_s
    late = sum(one.ask.at_s + one.seconds > window_s for one in sent)
    time.sleep(max(end_s - time.time(), 0.0))
    records = _settled(proxy, start_s, len(sent))
    _covered(proxy, end_s)
    total = _get(proxy, "/v1/energy/books", start_time=start_s, end_time=end_s)["total"]
    background = [record for record in records if record["tenant"] == "background"]
    known = [record for record in records if record["tenant"] == "known"]
    return Half(
        measured_j=total["measured_joules"],
        requests_j=total["requests_joules"],
        idle_j=total["idle_joules"],
        unobserved_j=total["unobserved_joules"],
        unmeasured_j=total["unmeasured_joules"],
        background_j=_sum(background, "energy_joules"),
        background_uncertainty_j=_sum(background, "uncertainty_joules"),
        known_j=_sum(known, "energy_joules"),
        known_dynamic_j=_sum(known, "dynamic_joules"),
        known_uncertainty_j=_sum(known, "uncertainty_joules"),
        requests=len(sent),
        failed=_failed(sent),
        late=late,
    )


def _failed(sent: list[Sent]) -> int:
    return sum(not one.ok for one in sent)


def _sum(records: list[dict[str, Any]], field: str) -> float:
    return sum(record[field] or 0.0 for record in records)


def _quality_at(records: list[dict[str, Any]], learnt: list[Sent]) -> float | None:
    """What the last record of the learning traffic says (records come newest first)."""
    first = [record["quality"] for record in records[-len(learnt) :] if record["quality"] is not None]
    return first[0] if first else None


def _get(proxy: ProxyProcess, path: str, **parameters: object) -> Any:
    answer = httpx.get(f"{proxy.url}{path}", params={k: str(v) for k, v in parameters.items()}, timeout=30.0)
    return answer.raise_for_status().json()


def _records(proxy: ProxyProcess, start_s: float, end_s: float) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = []
    more: dict[str, object] = {}
    while True:
        page = _get(proxy, "/v1/energy/requests", start_time=start_s, end_time=end_s, limit=1000, **more)
        records += page["data"]
        if not page["has_more"]:
            return records
        more = {"after": page["next_page"]}


def _settled(proxy: ProxyProcess, start_s: float, count: int) -> list[dict[str, Any]]:
    """The records of all `count` requests since then, once they are final."""
    deadline_s = time.monotonic() + SETTLE_S
    while True:
        records = _records(proxy, start_s, time.time() + 1)
        final = [record for record in records if record["state"] == "final"]
        if len(final) >= count:
            return final
        if time.monotonic() > deadline_s:
            raise RuntimeError(f"of {count} requests only {len(final)} have final figures")
        time.sleep(0.1)


def _covered(proxy: ProxyProcess, end_s: float) -> None:
    """Wait until the books reach `end_s`."""
    deadline_s = time.monotonic() + SETTLE_S
    while True:
        last = _get(proxy, "/v1/energy/books", start_time=end_s - 5, end_time=end_s)["total"]
        if last is not None and last["end_time"] >= end_s - 0.001:
            return
        if time.monotonic() > deadline_s:
            raise RuntimeError("the books do not reach the end of the window")
        time.sleep(0.1)
