"""What the sampler costs and whether it keeps its beat: eight GPUs at the default rate, alone and beside a
process that burns a core. Nothing else is asked of the machine; what else runs on it counts against us."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from accounting.events import CounterReads, MeterQuality
from accounting.meters.meter import NvmlMeter
from benchmarks.metering.ours import CLOCK, DRAIN_S, START_S
from simulator.gpu.board import H100, Board
from simulator.gpu.library import build

GPUS = 8
BURN = "while True: pass"


@dataclass(frozen=True)
class Sampled:
    """`core_share` is CPU time of the sampler's process over time; gaps are between reads of one GPU."""

    beside_burner: bool
    seconds: float
    core_share: float
    reads: int
    gap_p50_ms: float
    gap_p95_ms: float
    gap_max_ms: float


def measure(directory: Path, seconds: float) -> list[Sampled]:
    """So long alone, then so long beside the burner. Raises RuntimeError where the GPUs are not read."""
    directory.mkdir()
    library = build(directory)
    board = Board.create(directory / "board", [H100.numbered(n) for n in range(GPUS)])
    meter = NvmlMeter(CLOCK, library=library)
    meter.set_busy(True)
    meter.start()
    try:
        _wait_for_default_rate(meter)
        sampled = []
        for beside_burner in (False, True):
            with _burner(beside_burner):
                sampled.append(_watch(meter, seconds, beside_burner))
    finally:
        meter.close()
        board.close()
    return sampled


def _wait_for_default_rate(meter: NvmlMeter) -> None:
    """It begins with some seconds of fast reads, to check the counters: wait until all have been checked."""
    checked: set[str] = set()
    deadline_s = time.monotonic() + START_S
    while len(checked) < GPUS:
        found = meter.drain()
        checked |= {event.gpu for event in found if isinstance(event, MeterQuality) and event.check}
        if time.monotonic() > deadline_s:
            raise RuntimeError(f"only {len(checked)} of {GPUS} simulated GPUs have been checked")
        time.sleep(DRAIN_S)


def _watch(meter: NvmlMeter, seconds: float, beside_burner: bool) -> Sampled:
    assert meter.pid is not None
    begin_us: dict[str, list[int]] = {}
    meter.drain()
    cpu_ns, began_s = _cpu_ns(meter.pid), time.monotonic()
    while time.monotonic() < began_s + seconds:
        time.sleep(DRAIN_S)
        for event in meter.drain():
            if isinstance(event, CounterReads):
                begin_us.setdefault(event.gpu, []).extend(event.t_lo_us)
    lasted_s = time.monotonic() - began_s
    share = (_cpu_ns(meter.pid) - cpu_ns) / 1e9 / lasted_s
    gaps_ms = np.asarray([(b - a) / 1000 for times in begin_us.values() for a, b in pairwise(times)])
    p50_ms, p95_ms = (float(x) for x in np.percentile(gaps_ms, [50, 95]))
    reads = sum(len(times) for times in begin_us.values())
    return Sampled(beside_burner, lasted_s, share, reads, p50_ms, p95_ms, float(gaps_ms.max()))


def _cpu_ns(pid: int) -> int:
    """CPU time of all threads of a process (the kernel's schedstat: nanoseconds on a CPU come first)."""
    return sum(int(path.read_text().split()[0]) for path in Path(f"/proc/{pid}/task").glob("*/schedstat"))


@contextmanager
def _burner(wanted: bool) -> Iterator[None]:
    if not wanted:
        yield
        return
    process = subprocess.Popen([sys.executable, "-c", BURN])
    try:
        yield
    finally:
        process.kill()
        process.wait()
