"""What a GPU says of itself besides its energy: limits, clocks, what holds them down, use, temperature.

These calls are slower than the one for the energy (a process list takes milliseconds, so none is asked for)
and are made once per second at most, never in the loop that reads the energy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pynvml

from accounting.events import GpuTelemetry
from accounting.meters.nvml import Device

REASONS = {
    0x1: "gpu_idle",
    0x2: "applications_clocks_setting",
    0x4: "sw_power_cap",
    0x8: "hw_slowdown",
    0x10: "sync_boost",
    0x20: "sw_thermal_slowdown",
    0x40: "hw_thermal_slowdown",
    0x80: "hw_power_brake_slowdown",
    0x100: "display_clock_setting",
}
"""NVML's clock event reasons by their bits (NVML API reference, nvmlClocksEventReasons)."""


def read(device: Device, t_us: int) -> GpuTelemetry:
    """Ask once. What cannot be had is None; a GPU that is gone says nothing at all."""
    handle = device.handle
    reasons = _ask(pynvml.nvmlDeviceGetCurrentClocksEventReasons, handle)
    use = _ask(pynvml.nvmlDeviceGetUtilizationRates, handle)
    memory = _ask(pynvml.nvmlDeviceGetMemoryInfo, handle)
    return GpuTelemetry(
        t_us=t_us,
        gpu=device.uuid,
        power_mw=_ask(pynvml.nvmlDeviceGetPowerUsage, handle),
        power_limit_mw=_ask(pynvml.nvmlDeviceGetEnforcedPowerLimit, handle),
        default_power_limit_mw=_ask(pynvml.nvmlDeviceGetPowerManagementDefaultLimit, handle),
        sm_clock_mhz=_ask(pynvml.nvmlDeviceGetClockInfo, handle, pynvml.NVML_CLOCK_SM),
        memory_clock_mhz=_ask(pynvml.nvmlDeviceGetClockInfo, handle, pynvml.NVML_CLOCK_MEM),
        clock_reasons=names(int(reasons)) if reasons is not None else None,
        utilization_percent=int(use.gpu) if use is not None else None,
        memory_used_bytes=int(memory.used) if memory is not None else None,
        memory_total_bytes=int(memory.total) if memory is not None else None,
        temperature_c=_ask(pynvml.nvmlDeviceGetTemperature, handle, pynvml.NVML_TEMPERATURE_GPU),
    )


def names(reasons: int) -> list[str]:
    """The names of the set bits; a bit without a name here as its number, such as 0x400."""
    bits = (1 << k for k in range(reasons.bit_length()))
    return [REASONS.get(bit, hex(bit)) for bit in bits if reasons & bit]


def _ask(function: Callable[..., Any], *arguments: Any) -> Any:
    """What the call says; None where it fails: the loop that reads the energy finds out why."""
    try:
        return function(*arguments)
    except pynvml.NVMLError:
        return None
