"""GPUs with a power that tests set, and the energy that it sums up to, as a staircase of 20 ms."""

from __future__ import annotations

import threading
import time

STEP_US = 20_000


def now_us() -> int:
    return time.monotonic_ns() // 1000


class FakeGpu:
    def __init__(self, power_mw: int = 300_000, energy_mj: int = 5_000_000) -> None:
        self._lock = threading.Lock()
        self._power_mw, self._at_us, self._nj = power_mw, now_us(), energy_mj * 1_000_000
        self._shown_mj, self._shown_us = energy_mj, 0
        self.frozen = False
        self.fault: str | None = None

    @property
    def power_mw(self) -> int:
        return self._power_mw

    def set_power(self, power_mw: int) -> None:
        with self._lock:
            self._sum()
            self._power_mw = power_mw

    def reset(self) -> None:
        """As after a reload of the driver."""
        with self._lock:
            self._nj, self._at_us, self._shown_us = 0, now_us(), 0

    def energy_mj(self) -> int:
        with self._lock:
            self._sum()
            if not self.frozen and self._at_us - self._shown_us >= STEP_US:
                self._shown_mj, self._shown_us = self._nj // 1_000_000, self._at_us
            return self._shown_mj

    def true_mj(self) -> int:
        with self._lock:
            self._sum()
            return self._nj // 1_000_000

    def _sum(self) -> None:
        now = now_us()
        self._nj += self._power_mw * (now - self._at_us)
        self._at_us = now
