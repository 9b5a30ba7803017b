"""What every NVML call costs that a meter could make, and which of them this GPU has."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pynvml

CALLS = 200


@dataclass(frozen=True)
class Cost:
    """Latency of one call in microseconds; all None and `error` set where the GPU does not have it."""

    call: str
    p50_us: float | None = None
    p95_us: float | None = None
    max_us: float | None = None
    error: str | None = None


@dataclass(frozen=True)
class FieldStamps:
    """What NVML's own time stamp of the energy field (83) is worth."""

    reads: int
    values: int
    """Distinct energies."""
    stamps: int
    """Distinct time stamps. As many as values: they are the counter's own; as many as reads: the call's."""
    age_p50_us: float
    """Age of the stamp when the call returned."""


def fields(handle: object, ids: list[int]) -> Any:
    """Read these fields; raises NVMLError where any cannot be had."""
    values = pynvml.nvmlDeviceGetFieldValues(handle, ids)
    for value in values:
        if value.nvmlReturn != pynvml.NVML_SUCCESS:
            raise pynvml.NVMLError(value.nvmlReturn)
    return values


def costs(handle: object) -> list[Cost]:
    """Time CALLS calls of each, one kind after the other."""
    slow = [pynvml.NVML_FI_DEV_POWER_INSTANT, pynvml.NVML_FI_DEV_POWER_AVERAGE]
    calls: dict[str, Callable[[], object]] = {
        "GetTotalEnergyConsumption": lambda: pynvml.nvmlDeviceGetTotalEnergyConsumption(handle),
        "field TOTAL_ENERGY_CONSUMPTION": lambda: fields(
            handle, [pynvml.NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION]
        ),
        "field POWER_INSTANT": lambda: fields(handle, slow[:1]),
        "field POWER_AVERAGE": lambda: fields(handle, slow[1:]),
        "fields ENERGY, POWER_INSTANT and POWER_AVERAGE": lambda: fields(
            handle, [pynvml.NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION, *slow]
        ),
        "GetPowerUsage": lambda: pynvml.nvmlDeviceGetPowerUsage(handle),
        "GetEnforcedPowerLimit": lambda: pynvml.nvmlDeviceGetEnforcedPowerLimit(handle),
        "GetPowerManagementLimit": lambda: pynvml.nvmlDeviceGetPowerManagementLimit(handle),
        "GetClockInfo SM": lambda: pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM),
        "GetClockInfo memory": lambda: pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_MEM),
        "GetCurrentClocksEventReasons": lambda: pynvml.nvmlDeviceGetCurrentClocksEventReasons(handle),
        "GetUtilizationRates": lambda: pynvml.nvmlDeviceGetUtilizationRates(handle),
        "GetMemoryInfo": lambda: pynvml.nvmlDeviceGetMemoryInfo(handle),
        "GetTemperature": lambda: pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU),
        "GetComputeRunningProcesses": lambda: pynvml.nvmlDeviceGetComputeRunningProcesses(handle),
        "GetMigMode": lambda: pynvml.nvmlDeviceGetMigMode(handle),
    }
    return [_cost(name, call) for name, call in calls.items()]


def _cost(name: str, call: Callable[[], object]) -> Cost:
    taken_us = []
    try:
        for _ in range(CALLS):
            begin_ns = time.perf_counter_ns()
            call()
            taken_us.append((time.perf_counter_ns() - begin_ns) / 1000)
    except pynvml.NVMLError as error:
        return Cost(name, error=str(error))
    p50_us, p95_us = (float(x) for x in np.percentile(taken_us, [50, 95]))
    return Cost(name, p50_us, p95_us, max(taken_us))


def field_stamps(handle: object, seconds: float) -> FieldStamps | str:
    """Poll the energy field for so long; the error's text where it cannot be had."""
    values, stamps, ages_us = set(), set(), []
    until_s = time.monotonic() + seconds
    reads = 0
    while time.monotonic() < until_s:
        try:
            field = fields(handle, [pynvml.NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION])[0]
        except pynvml.NVMLError as error:
            return str(error)
        ages_us.append(time.time_ns() / 1000 - field.timestamp)
        values.add(int(field.value.ullVal))
        stamps.add(int(field.timestamp))
        reads += 1
        time.sleep(0.001)
    return FieldStamps(reads, len(values), len(stamps), float(np.median(ages_us)))


def power_w(handle: object, seconds: float) -> dict[str, float | None]:
    """Mean power of a quiet stretch, by the energy counter and by the two power readings, in watts."""
    instant: list[float] = []
    average: list[float] = []
    begin = _energy(handle)
    until_s = time.monotonic() + seconds
    while time.monotonic() < until_s:
        for into, field in ((instant, pynvml.NVML_FI_DEV_POWER_INSTANT), (average, None)):
            try:
                read = (
                    fields(handle, [field])[0].value.uiVal
                    if field is not None
                    else pynvml.nvmlDeviceGetPowerUsage(handle)
                )
            except pynvml.NVMLError:
                continue  # this GPU does not have it: the figure stays None
            into.append(read / 1000)
        time.sleep(0.05)
    end = _energy(handle)
    return {
        "counter_w": (end[1] - begin[1]) / 1000 / (end[0] - begin[0]),
        "instant_w": float(np.mean(instant)) if instant else None,
        "average_w": float(np.mean(average)) if average else None,
    }


def _energy(handle: object) -> tuple[float, int]:
    """Time (s) and value (mJ) of the counter's next edge."""
    first = pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    deadline_s = time.monotonic() + 5
    while (value := pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)) == first:
        if time.monotonic() > deadline_s:
            raise RuntimeError("the energy counter does not move")
        time.sleep(0.001)
    return time.monotonic(), int(value)
