"""The ways to read a GPU's joules, best first, and the choice among them by calling, not by its generation.

1. the energy counter, by its own function or as field 83: millijoules since the driver was loaded
2. power now, summed over time: field 186 (POWER_INSTANT)
3. power as a mean over the last second, summed over time: field 185 (POWER_AVERAGE), or the older function

Ids and meaning of the fields: NVML API reference, nvmlDeviceGetFieldValues.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from accounting.events import MeterMethod
from accounting.meters.faults import TRIES, Fault
from accounting.meters.nvml import Device, Reading

ENERGY, POWER_AVERAGE, POWER_INSTANT = 83, 185, 186

MARGIN = 2
"""Power above this many times the highest limit that can be set is a broken sensor, not a peak."""

TRY_AGAIN_S = 0.02


class Source(Protocol):
    """A cumulative energy. `lag_us`: how far its values trail the truth; None where that is not known."""

    @property
    def name(self) -> str: ...
    @property
    def method(self) -> MeterMethod: ...
    @property
    def lag_us(self) -> int | None: ...
    def read_mj(self) -> int:
        """Millijoules since some start. Raises Fault."""


class Counter:
    """The energy counter, as read."""

    method: MeterMethod = "nvml-counter"

    def __init__(self, name: str, energy_mj: Reading, lag_us: int | None) -> None:
        self.name, self.lag_us = name, lag_us
        self.read_mj = energy_mj


class IntegratedPower:
    """Power summed over time by the trapezoid rule: a synthetic counter that starts at 0.

    Raises Fault IMPOSSIBLE_POWER for a reading above `most_mw`.
    """

    def __init__(
        self, name: str, method: MeterMethod, power_mw: Reading, *, lag_us: int, most_mw: int
    ) -> None:
        self.name, self.method, self.lag_us = name, method, lag_us
        self._power_mw, self._most_mw = power_mw, most_mw
        self._energy_nj = 0
        self._last: tuple[int, int] | None = None

    def read_mj(self) -> int:
        begin_us = time.monotonic_ns() // 1000
        power_mw = self._power_mw()
        t_us = (begin_us + time.monotonic_ns() // 1000) // 2
        if power_mw > self._most_mw:
            raise Fault("IMPOSSIBLE_POWER", f"{power_mw / 1000:.0f} W; at most {self._most_mw / 1000:.0f} W")
        if self._last is not None:
            last_us, last_mw = self._last
            self._energy_nj += (last_mw + power_mw) * (t_us - last_us) // 2  # mW x us = nJ
        self._last = t_us, power_mw
        return self._energy_nj // 1_000_000


def most_power_mw(device: Device) -> int:
    """What the GPU cannot draw more than, with a margin (milliwatts)."""
    return MARGIN * device.most_mw


def powers(device: Device) -> tuple[Reading, ...]:
    """The ways to read its power in milliwatts, the quickest to follow first."""
    usage = device.call("nvmlDeviceGetPowerUsage", ctypes.c_uint)
    return device.field(POWER_INSTANT), device.field(POWER_AVERAGE), usage


def candidates(device: Device, counter_lag_us: int | None = None) -> list[Source]:
    """Every way there is, best first, each with buffers of its own.

    The lag of a mean over a window is half the window: 25 ms for the sensor behind POWER_INSTANT (arXiv
    2312.02741), 1 s for the average (NVML's documentation of nvmlDeviceGetPowerUsage; on Ampere and newer).
    The counter's has to be calibrated.
    """
    function = "nvmlDeviceGetTotalEnergyConsumption"
    instant, average, usage = powers(device)
    most_mw = most_power_mw(device)
    mean: MeterMethod = "nvml-power-average"
    return [
        Counter(function, device.call(function, ctypes.c_ulonglong), counter_lag_us),
        Counter(f"field {ENERGY}", device.field(ENERGY), counter_lag_us),
        IntegratedPower(f"field {POWER_INSTANT}", "nvml-power", instant, lag_us=12_500, most_mw=most_mw),
        IntegratedPower(f"field {POWER_AVERAGE}", mean, average, lag_us=500_000, most_mw=most_mw),
        IntegratedPower("nvmlDeviceGetPowerUsage", mean, usage, lag_us=500_000, most_mw=most_mw),
    ]


@dataclass(frozen=True)
class Choice:
    """The source to use, and what kept those before it from being used: their names with fault codes."""

    source: Source
    refused: dict[str, str]

    @property
    def note(self) -> str | None:
        return ", ".join(f"{name}: {code}" for name, code in self.refused.items()) or None


def choose(sources: Sequence[Source], frozen_mj: int | None = None) -> Choice:
    """The first that answers. Raises Fault: the first one's, or at once that of a GPU that is gone.

    A counter that shows `frozen_mj` still is passed over.
    """
    refused: dict[str, Fault] = {}
    for source in sources:
        problem = try_out(source, frozen_mj)
        if problem is None:
            return Choice(source, {name: fault.code for name, fault in refused.items()})
        if problem.is_final:
            raise problem
        refused[source.name] = problem
    # What says most: a call that this GPU simply does not have explains nothing.
    telling = [f for f in refused.values() if f.code not in ("NOT_SUPPORTED", "FUNCTION_NOT_FOUND")]
    raise (telling or list(refused.values()))[0]


def try_out(source: Source, frozen_mj: int | None = None) -> Fault | None:
    """What keeps a source from being used, tried up to TRIES times; None: it works."""
    problem: Fault | None = None
    for left in reversed(range(TRIES)):
        try:
            energy_mj = source.read_mj()
        except Fault as fault:
            problem = fault
            if fault.is_final:
                return fault
            if left:
                time.sleep(TRY_AGAIN_S)  # calls may be refused for coming too fast
            continue
        if source.method == "nvml-counter" and energy_mj == frozen_mj:
            return Fault("COUNTER_FROZEN", source.name)
        return None
    return problem
