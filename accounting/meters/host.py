"""The meter of the machine around the GPUs: RAPL where it can be read, else an estimate, said to be one.

Its device is `host:NAME`, so that its energy never falls in with that of a GPU. RAPL knows of processors and
memory; fans, disks, network and the losses of power supplies are in neither figure, nor is the building's
part (PUE), which is a factor of its own in the settings.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol

from accounting.clock import Clock
from accounting.events import MeterDown, MeterMethod, MeterUp
from accounting.meters.contract import MeterEvent
from accounting.meters.rapl import POWERCAP, READ_FAILED, HostError, Rapl
from accounting.meters.remote_power import pinned

PROC_STAT = Path("/proc/stat")

BUSY_PERIOD_US, IDLE_PERIOD_US = 100_000, 1_000_000
RETRY_US = 10_000_000

HostSource = Literal["auto", "rapl", "estimate"]
NOT_CONFIGURED = ("NOT_CONFIGURED", "host.source is estimate, but host.idle_w is not given")


class Energy(Protocol):
    def read_uj(self) -> int:
        """Microjoules since it was made. Raises HostError."""


class Estimate:
    """`idle_w` all the time, and `busy_w` more when all processors are busy; the share from /proc/stat."""

    def __init__(self, clock: Clock, idle_w: float, busy_w: float, proc_stat: Path = PROC_STAT) -> None:
        self._clock, self._idle_w, self._busy_w, self._proc_stat = clock, idle_w, busy_w, proc_stat
        self._last_us = clock.now_us()
        self._last = self._times()
        self._energy_uj = 0.0

    def read_uj(self) -> int:
        now_us, (busy, total) = self._clock.now_us(), self._times()
        passed = total - self._last[1]
        share = (busy - self._last[0]) / passed if passed > 0 else 0.0
        power_w = self._idle_w + self._busy_w * min(max(share, 0.0), 1.0)
        self._energy_uj += power_w * (now_us - self._last_us)
        self._last_us, self._last = now_us, (busy, total)
        return int(self._energy_uj)

    def _times(self) -> tuple[int, int]:
        """Time that the processors were busy, and all of it, in ticks (proc_pid_stat(5), the line `cpu`)."""
        if not self._busy_w:
            return 0, 0  # a constant: there is nothing to look at
        try:
            first = self._proc_stat.read_text().split("\n", 1)[0]
            ticks = [int(word) for word in first.split()[1:9]]
            idle = ticks[3] + ticks[4]
        except (OSError, ValueError, IndexError) as error:
            raise HostError(READ_FAILED, path=self._proc_stat, why=error) from error
        return sum(ticks) - idle, sum(ticks)


class HostMeter:
    """A `Meter` of this machine. It reads files of the kernel in `drain` itself: that takes microseconds.

    `auto` is RAPL, or the estimate where RAPL cannot be read and `idle_w` is given.
    """

    def __init__(
        self,
        clock: Clock,
        name: str,
        *,
        source: HostSource = "auto",
        idle_w: float | None = None,
        busy_w: float = 0.0,
        powercap: Path = POWERCAP,
        proc_stat: Path = PROC_STAT,
    ) -> None:
        self.device_id = f"host:{name}"
        self._clock, self._source = clock, source
        self._idle_w, self._busy_w = idle_w, busy_w
        self._powercap, self._proc_stat = powercap, proc_stat
        self._energy: Energy | None = None
        self._started = False
        self._busy = False
        self._due_us = 0
        self._told_mj = 0
        self._down_as: str | None = None

    def start(self) -> None:
        self._started = True

    def set_busy(self, busy: bool) -> None:
        if busy and not self._busy:
            self._due_us = 0
        self._busy = busy

    def drain(self) -> Sequence[MeterEvent]:
        now_us = self._clock.now_us()
        if not self._started or now_us < self._due_us:
            return ()
        self._due_us = now_us + (BUSY_PERIOD_US if self._busy else IDLE_PERIOD_US)
        try:
            if self._energy is None:
                return [self._begin(now_us)]
            energy_mj = self._energy.read_uj() // 1000
        except HostError as error:
            self._energy = None
            self._due_us = now_us + RETRY_US
            return self._down(now_us, error)
        before_mj, self._told_mj = self._told_mj, energy_mj
        return [pinned(self.device_id, now_us, self._clock.now_us(), before_mj, energy_mj)]

    def close(self) -> None:
        self._started, self._energy = False, None

    def _begin(self, now_us: int) -> MeterUp:
        """Find what can be read. Raises HostError."""
        method: MeterMethod = "estimate"
        if self._source == "estimate":
            self._energy, device = self._estimate()
        else:
            try:
                rapl = Rapl(self._powercap)
                self._energy, device, method = rapl, f"RAPL {', '.join(rapl.zones)}", "rapl"
            except HostError:
                if self._source == "rapl" or self._idle_w is None:
                    raise
                self._energy, device = self._estimate()
        self._told_mj, self._down_as = 0, None
        return MeterUp(t_us=now_us, gpu=self.device_id, device=device, method=method)

    def _estimate(self) -> tuple[Energy, str]:
        if self._idle_w is None:
            raise HostError(NOT_CONFIGURED)
        device = f"estimate: {self._idle_w:g} W" + (f" + {self._busy_w:g} W x busy" if self._busy_w else "")
        return Estimate(self._clock, self._idle_w, self._busy_w, self._proc_stat), device

    def _down(self, now_us: int, error: HostError) -> list[MeterEvent]:
        if error.code == self._down_as:
            return []
        self._down_as = error.code
        return [MeterDown(t_us=now_us, gpu=self.device_id, code=error.code, message=str(error))]
