"""joulegate's way: the meter's reads make the ledger's curve, and known activity gives it its shape."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from accounting.clock import Clock
from accounting.events import CounterReads, MeterUp
from accounting.ledger.curve import Curve
from accounting.meters.meter import NvmlMeter
from benchmarks.metering.course import GPUS, QUIET_US, Window
from simulator.gpu.board import H100, monotonic_us

START_S = 20.0
DRAIN_S = 0.05
AFTER_US = 700_000
"""The counter needs this long to show the end of the last window."""

CLOCK = Clock(0)
"""UTC is of no interest here: all times are monotonic microseconds."""


class Meter:
    """Reads of all GPUs from its making until `until`."""

    def __init__(self, library: Path) -> None:
        """Raises RuntimeError where the GPUs cannot be read."""
        self.reads: dict[str, list[tuple[int, int, int]]] = {}
        self._meter = NvmlMeter(CLOCK, library=library)
        self._meter.set_busy(True)
        self._meter.start()
        up: set[str] = set()
        deadline_s = time.monotonic() + START_S
        while len(up) < GPUS:
            up |= {event.gpu for event in self._drain() if isinstance(event, MeterUp)}
            if time.monotonic() > deadline_s:
                self._meter.close()
                raise RuntimeError(f"only {len(up)} of {GPUS} simulated GPUs can be read")
            time.sleep(DRAIN_S)

    def _drain(self) -> list[object]:
        events = list(self._meter.drain())
        for event in events:
            if isinstance(event, CounterReads):
                rows = zip(event.t_lo_us, event.t_hi_us, event.energy_mj, strict=True)
                self.reads.setdefault(event.gpu, []).extend(rows)
        return [*events]

    def until(self, t_us: int) -> None:
        """Go on reading until then, then stop."""
        try:
            while monotonic_us() < t_us + AFTER_US:
                self._drain()
                time.sleep(DRAIN_S)
            self._drain()
        finally:
            self._meter.close()


def energies_uj(
    meter: Meter, windows: list[Window], begin_us: int, *, lag_us: int, activity: bool
) -> list[int | None]:
    """Energy of each window, in the order of `windows`. Without `activity` the curve is straight lines."""
    curves = []
    for gpu in range(GPUS):
        curve = Curve(lag_us=lag_us)
        for t_lo_us, t_hi_us, energy_mj in meter.reads[H100.numbered(gpu).uuid]:
            curve.read(t_lo_us, t_hi_us, energy_mj, 0)
        idle_uw = idle_power_uw(curve, begin_us)
        busy = partial(busy_us, [window for window in windows if window.gpu == gpu])
        if activity:
            shape(curve, [w for w in windows if w.gpu == gpu], busy, idle_uw)
        curves.append(curve)
    return [curves[w.gpu].span(w.t0_us, w.t1_us).measured_uj for w in windows]


def shape(curve: Curve, windows: list[Window], busy: Callable[[int, int], int], idle_uw: int) -> None:
    for window in windows:
        curve.shape(window.t0_us, busy, idle_uw)
        curve.shape(window.t1_us, busy, idle_uw)


def busy_us(windows: list[Window], t0_us: int, t1_us: int) -> int:
    """Time of [t0, t1) in which a request ran."""
    return sum(max(min(w.t1_us, t1_us) - max(w.t0_us, t0_us), 0) for w in windows)


def idle_power_uw(curve: Curve, begin_us: int) -> int:
    """Mean power of the quiet beginning, as the service learns it when nothing runs."""
    span = curve.span(begin_us + 1_000_000, begin_us + QUIET_US - 200_000)
    assert span.measured_uj is not None
    return span.measured_uj * 1_000_000 // span.covered_us
