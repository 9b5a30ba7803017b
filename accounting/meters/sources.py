"""How one GPU's joules are read: its energy counter, or its power summed over time where it has none.

Which of them works is found by calling, not from the GPU's generation.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from accounting.events import MeterMethod
from accounting.meters.nvml import Device, NvmlError

TRIES = 3
"""A call must fail this often in a row to be believed: NVML refuses single calls when polled fast."""

ABSENT = ("NOT_SUPPORTED", "FUNCTION_NOT_FOUND")
"""Names of the errors that say a GPU or a driver does not have the thing asked for."""


class Source(Protocol):
    """A cumulative energy. `lag_us`: how far its values trail the truth, as far as known (0: not known)."""

    method: MeterMethod
    lag_us: int

    def read_mj(self) -> int:
        """Millijoules since some start. Raises NvmlError."""


class Counter:
    """The energy counter, as read. Values that run backwards are passed on: the ledger judges them."""

    method: MeterMethod = "nvml-counter"
    lag_us = 0

    def __init__(self, device: Device) -> None:
        self._device = device
        self._last_mj = 0

    def read_mj(self) -> int:
        energy_mj = self._device.energy_mj()
        if energy_mj == 0 and self._last_mj > 0:
            energy_mj = self._device.energy_mj()  # single zeros happen; a counter that restarted stays low
        self._last_mj = energy_mj
        return energy_mj


class IntegratedPower:
    """Power summed over time by the trapezoid rule: a synthetic counter that starts at 0."""

    method: MeterMethod = "nvml-power"

    def __init__(self, power_mw: Callable[[], int], lag_us: int) -> None:
        self.lag_us = lag_us
        self._power_mw = power_mw
        self._energy_nj = 0
        self._last: tuple[int, int] | None = None

    def read_mj(self) -> int:
        begin_us = time.monotonic_ns() // 1000
        power_mw = self._power_mw()
        t_us = (begin_us + time.monotonic_ns() // 1000) // 2
        if self._last is not None:
            last_us, last_mw = self._last
            self._energy_nj += (last_mw + power_mw) * (t_us - last_us) // 2  # mW x us = nJ
        self._last = t_us, power_mw
        return self._energy_nj // 1_000_000


def probe(device: Device) -> Source:
    """The best source that answers: the counter, instantaneous power, average power. Raises NvmlError.

    The lag of a mean over a window is half the window: 25 ms for the sensor behind POWER_INSTANT (arXiv
    2312.02741), 1 s for the average (NVML's documentation of nvmlDeviceGetPowerUsage).
    """
    sources: tuple[Source, ...] = (
        Counter(device),
        IntegratedPower(device.instant_power_mw, lag_us=12_500),
        IntegratedPower(device.average_power_mw, lag_us=500_000),
    )
    last: NvmlError | None = None
    for source in sources:
        for _ in range(TRIES):
            try:
                source.read_mj()
                return source
            except NvmlError as error:
                last = error
                if error.name not in ABSENT:
                    raise
    assert last is not None
    raise last
