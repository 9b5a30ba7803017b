"""Drain a meter until it has said what a test waits for."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from accounting.clock import Clock
from accounting.events import CounterReads, GpuTelemetry, MeterDown, MeterQuality, MeterUp
from accounting.meters.meter import MeterEvent, NvmlMeter

DEADLINE_S = 30.0
"""Far above what anything here takes: it ends a test that would wait for ever, it asserts no speed."""


def wait_until(true: Callable[[], bool], what: str) -> None:
    end_s = time.monotonic() + DEADLINE_S
    while not true():
        assert time.monotonic() < end_s, f"waited {DEADLINE_S:.0f} s for {what}"
        time.sleep(0.01)


def is_running(pid: int) -> bool:
    """False as well for a process that has ended and is not reaped yet."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


class Watched:
    """A meter and all that it has said."""

    def __init__(self, meter: NvmlMeter, clock: Clock) -> None:
        self.meter, self.clock = meter, clock
        self.events: list[MeterEvent] = []

    def until(self, true: Callable[[], bool], what: str) -> None:
        def drained() -> bool:
            self.events += self.meter.drain()
            return true()

        wait_until(drained, what)

    def ups(self, gpu: str) -> list[MeterUp]:
        return [e for e in self.events if isinstance(e, MeterUp) and e.gpu == gpu]

    def downs(self, gpu: str) -> list[MeterDown]:
        return [e for e in self.events if isinstance(e, MeterDown) and e.gpu == gpu]

    def qualities(self, gpu: str) -> list[MeterQuality]:
        return [e for e in self.events if isinstance(e, MeterQuality) and e.gpu == gpu]

    def telemetry(self, gpu: str) -> list[GpuTelemetry]:
        return [e for e in self.events if isinstance(e, GpuTelemetry) and e.gpu == gpu]

    def reads(self, gpu: str) -> list[tuple[int, int, int]]:
        """(t_lo_us, t_hi_us, energy_mj), in order."""
        batches = [e for e in self.events if isinstance(e, CounterReads) and e.gpu == gpu]
        return [read for e in batches for read in zip(e.t_lo_us, e.t_hi_us, e.energy_mj, strict=True)]

    def until_reads(self, gpu: str, more: int) -> None:
        """Until there are this many reads more than now."""
        wanted = len(self.reads(gpu)) + more
        self.until(lambda: len(self.reads(gpu)) >= wanted, f"{wanted} reads of {gpu}")

    def until_down(self, gpu: str, code: str) -> MeterDown:
        self.until(lambda: any(e.code == code for e in self.downs(gpu)), f"{gpu} going down with {code}")
        return next(e for e in reversed(self.downs(gpu)) if e.code == code)

    def until_up(self, gpu: str, times: int = 1) -> MeterUp:
        self.until(lambda: len(self.ups(gpu)) >= times, f"{gpu} coming up")
        return self.ups(gpu)[times - 1]

    def kinds(self, gpu: str) -> str:
        """The events of one GPU that the ledger hears, in order, e.g. "u r d u r", batches taken together."""
        letters = {MeterUp: "u", MeterDown: "d", CounterReads: "r"}
        said = [letters[type(e)] for e in self.events if e.gpu == gpu and type(e) in letters]
        return " ".join(a for a, b in zip(said, [*said[1:], ""], strict=True) if not (a == b == "r"))
