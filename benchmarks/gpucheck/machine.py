"""What the check ran on: GPU, driver, versions. Only what can be asked; None where it cannot."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version

import pynvml

from joulegate import __version__

PACKAGES = ("torch", "transformers", "nvidia-ml-py", "numpy", "scipy")


def describe(handle: object) -> dict[str, object]:
    driver = str(pynvml.nvmlSystemGetDriverVersion())
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "gpu": str(pynvml.nvmlDeviceGetName(handle)),
        "simulated": "simulated" in driver,
        "driver": driver,
        "nvml": str(pynvml.nvmlSystemGetNVMLVersion()),
        "cuda": _cuda(),
        "power_limit_w": _power_limit_w(handle),
        "gpus": int(pynvml.nvmlDeviceGetCount()),
        "cores": os.cpu_count(),
        "cpu": _cpu(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "joulegate": __version__,
        "packages": {name: _version(name) for name in PACKAGES},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cuda() -> str | None:
    try:
        number = int(pynvml.nvmlSystemGetCudaDriverVersion_v2())
    except pynvml.NVMLError:
        return None  # a driver without CUDA is possible, and no reason to stop
    return f"{number // 1000}.{number % 1000 // 10}"


def _power_limit_w(handle: object) -> float | None:
    try:
        return float(pynvml.nvmlDeviceGetEnforcedPowerLimit(handle)) / 1000
    except pynvml.NVMLError:
        return None  # some boards have none


def _cpu() -> str | None:
    try:
        with open("/proc/cpuinfo") as file:
            return next(
                (line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), None
            )
    except OSError:
        return None
