"""The thin layer over pynvml: load the library, find GPUs by UUID, call what tells their energy.

To be used only in a process that never forks afterwards, i.e. in the sampler: NVML initialised before a fork
leaves the child's CUDA unusable.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from pathlib import Path

import pynvml

_NAMES: dict[int, str] = {
    value: name.removeprefix("NVML_ERROR_")
    for name, value in vars(pynvml).items()
    if name.startswith("NVML_ERROR_") and isinstance(value, int)
}

_ADVICE = {
    "LIBRARY_NOT_FOUND": "no NVIDIA driver found (libnvidia-ml.so.1): install it, or pass it to containers",
    "DRIVER_NOT_LOADED": "the NVIDIA driver is installed but not loaded: try `nvidia-smi`, or reboot",
    "LIB_RM_VERSION_MISMATCH": "the driver was upgraded under a running kernel module: reload it, or reboot",
    "NO_PERMISSION": "no permission to read the GPU: check the device files and the container's rights",
    "GPU_IS_LOST": "the GPU fell off the bus (see Xid 79 in dmesg): it needs a reset or a reboot",
    "RESET_REQUIRED": "the GPU must be reset before it works again",
    "NOT_FOUND": "there is no GPU with this UUID: `nvidia-smi -L` lists them",
    "UNKNOWN": "NVML gives no reason; in a container whose host ran `systemctl daemon-reload`: restart it",
    "NOT_SUPPORTED": "neither the energy counter nor a power sensor can be read on this GPU",
}


class NvmlError(Exception):
    """An NVML call failed. `code` is NVML's number, `name` its name without NVML_ERROR_."""

    def __init__(self, code: int, detail: str = "") -> None:
        self.code = code
        self.name = _NAMES.get(code, str(code))
        message = _ADVICE.get(self.name, f"NVML error {self.name}")
        super().__init__(f"{message} ({detail})" if detail else message)


@dataclass(frozen=True)
class Device:
    """A GPU and the calls on it. Every method raises NvmlError."""

    handle: object
    uuid: str
    name: str
    power_limit_mw: int | None

    def energy_mj(self) -> int:
        """The cumulative energy counter in millijoules, since the driver was loaded (Volta and newer)."""
        try:
            return int(pynvml.nvmlDeviceGetTotalEnergyConsumption(self.handle))
        except pynvml.NVMLError as error:
            raise NvmlError(error.value) from error

    def average_power_mw(self) -> int:
        """Mean power in milliwatts: over 1 s on Ampere (except GA100) and newer, else instantaneous."""
        try:
            return int(pynvml.nvmlDeviceGetPowerUsage(self.handle))
        except pynvml.NVMLError as error:
            raise NvmlError(error.value) from error

    def instant_power_mw(self) -> int:
        """Power in milliwatts as the sensor sees it now (field POWER_INSTANT)."""
        try:
            field = pynvml.nvmlDeviceGetFieldValues(self.handle, [pynvml.NVML_FI_DEV_POWER_INSTANT])[0]
        except pynvml.NVMLError as error:
            raise NvmlError(error.value) from error
        if field.nvmlReturn != pynvml.NVML_SUCCESS:
            raise NvmlError(field.nvmlReturn)
        return int(field.value.uiVal)


class Nvml:
    """The initialised library."""

    def __init__(self, library: Path | None = None) -> None:
        """Load and initialise NVML: `library` if given, else the system's. Raises NvmlError."""
        try:
            if library is not None:
                pynvml.nvmlLib = ctypes.CDLL(str(library))
            pynvml.nvmlInit()
            self.driver_version = str(pynvml.nvmlSystemGetDriverVersion())
        except OSError as error:
            raise NvmlError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, str(error)) from error
        except pynvml.NVMLError as error:
            raise NvmlError(error.value) from error
        self.simulated = "simulated" in self.driver_version

    def count(self) -> int:
        """How many GPUs there are, those that do not answer included. Raises NvmlError."""
        try:
            return int(pynvml.nvmlDeviceGetCount())
        except pynvml.NVMLError as error:
            raise NvmlError(error.value) from error

    def device(self, which: str | int) -> Device:
        """The GPU with this UUID, or this place in NVML's (PCI) order. Raises NvmlError."""
        try:
            if isinstance(which, str):
                handle = pynvml.nvmlDeviceGetHandleByUUID(which)
            else:
                handle = pynvml.nvmlDeviceGetHandleByIndex(which)
            uuid, name = pynvml.nvmlDeviceGetUUID(handle), pynvml.nvmlDeviceGetName(handle)
        except pynvml.NVMLError as error:
            raise NvmlError(error.value, "" if isinstance(which, int) else which) from error
        return Device(handle, str(uuid), str(name), _power_limit_mw(handle))


def _power_limit_mw(handle: object) -> int | None:
    """The enforced limit, which also works where the management limit does not; None where neither does."""
    for call in (pynvml.nvmlDeviceGetEnforcedPowerLimit, pynvml.nvmlDeviceGetPowerManagementLimit):
        try:
            return int(call(handle))
        except pynvml.NVMLError as error:
            if error.value not in (pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVML_ERROR_FUNCTION_NOT_FOUND):
                raise NvmlError(error.value) from error
    return None
