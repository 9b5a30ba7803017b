"""The thin layer over pynvml: load the library, find GPUs by UUID, make callables that read them.

To be used only in a process that never forks afterwards, i.e. in the sampler: NVML initialised before a fork
leaves the child's CUDA unusable.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pynvml

from accounting.meters.faults import Fault

Reading = Callable[[], int]
"""Reads one number from a GPU. Raises Fault. Keeps its buffer: one thread at a time may call it."""

NAMES: dict[int, str] = {
    value: name.removeprefix("NVML_ERROR_")
    for name, value in vars(pynvml).items()
    if name.startswith("NVML_ERROR_") and isinstance(value, int)
}

UNKNOWN_LIMIT_MW = 5_000_000
"""Taken for the limit of a GPU that does not tell its own; no single GPU draws as much."""

_MEMBERS = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")
"""Of a field's value, by NVML's nvmlValueType_t."""


def fault(status: int, detail: str = "") -> Fault:
    """The fault for one of NVML's return codes."""
    return Fault(NAMES.get(status, str(status)), detail, status=status)


@dataclass(frozen=True)
class Device:
    """A whole GPU, never a MIG instance. `most_mw` is the highest power limit that can be set on it."""

    handle: Any
    uuid: str
    name: str
    index: int
    power_limit_mw: int | None
    most_mw: int

    def call(self, function: str, kind: type[ctypes.c_uint] | type[ctypes.c_ulonglong]) -> Reading:
        """Reads with `function(device, kind *)`. Calls the library directly: it is done often."""
        try:
            entry = getattr(pynvml.nvmlLib, function)
        except AttributeError:
            return _failing(fault(pynvml.NVML_ERROR_FUNCTION_NOT_FOUND, function))
        handle, buffer = self.handle, kind()
        pointer = ctypes.byref(buffer)

        def read() -> int:
            if status := entry(handle, pointer):
                raise fault(status, function)
            return buffer.value

        return read

    def field(self, field: int) -> Reading:
        """Reads with nvmlDeviceGetFieldValues, scope 0: the GPU itself."""
        name = f"field {field}"
        try:
            entry = pynvml.nvmlLib.nvmlDeviceGetFieldValues
        except AttributeError:
            return _failing(fault(pynvml.NVML_ERROR_FUNCTION_NOT_FOUND, name))
        handle, buffer = self.handle, (pynvml.c_nvmlFieldValue_t * 1)()
        buffer[0].fieldId, pointer = field, ctypes.byref(buffer)

        def read() -> int:
            if status := entry(handle, 1, pointer) or buffer[0].nvmlReturn:
                raise fault(status, name)
            return int(getattr(buffer[0].value, _MEMBERS[buffer[0].valueType]))

        return read


def _failing(always: Fault) -> Reading:
    def read() -> int:
        raise Fault(always.code, always.detail, status=always.status)

    return read


class Nvml:
    """The initialised library."""

    def __init__(self, library: Path | None = None) -> None:
        """Load and initialise NVML: `library` if given, else the system's. Raises Fault."""
        try:
            if library is not None:
                pynvml.nvmlLib = ctypes.CDLL(str(library))
            pynvml.nvmlInit()
            self.driver_version = str(pynvml.nvmlSystemGetDriverVersion())
        except OSError as error:
            raise fault(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, str(error)) from error
        except pynvml.NVMLError as error:
            raise fault(error.value) from error
        self.simulated = "simulated" in self.driver_version

    def count(self) -> int:
        """How many GPUs there are, those that do not answer included. Raises Fault."""
        try:
            return int(pynvml.nvmlDeviceGetCount())
        except pynvml.NVMLError as error:
            raise fault(error.value) from error

    def device(self, which: str | int) -> Device:
        """The GPU with this UUID, or this place in NVML's (PCI) order. Raises Fault.

        The UUID of a MIG instance finds the GPU that it is a part of.
        """
        try:
            if isinstance(which, str):
                handle = pynvml.nvmlDeviceGetHandleByUUID(which)
                if which.startswith("MIG-"):
                    handle = pynvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle)
            else:
                handle = pynvml.nvmlDeviceGetHandleByIndex(which)
            uuid, name = str(pynvml.nvmlDeviceGetUUID(handle)), str(pynvml.nvmlDeviceGetName(handle))
            index = int(pynvml.nvmlDeviceGetIndex(handle))
        except pynvml.NVMLError as error:
            raise fault(error.value, "" if isinstance(which, int) else which) from error
        limit_mw = _first(handle, "nvmlDeviceGetEnforcedPowerLimit", "nvmlDeviceGetPowerManagementLimit")
        bounds = _first(handle, "nvmlDeviceGetPowerManagementLimitConstraints")
        most_mw = max(bounds[1] if bounds is not None else 0, limit_mw or 0) or UNKNOWN_LIMIT_MW
        return Device(handle, uuid, name, index, limit_mw, most_mw)


def _first(handle: Any, *functions: str) -> Any:
    """What the first of these calls says that the GPU supports; None where it supports none. Raises Fault."""
    for function in functions:
        try:
            return getattr(pynvml, function)(handle)
        except pynvml.NVMLError as error:
            if error.value not in (pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVML_ERROR_FUNCTION_NOT_FOUND):
                raise fault(error.value, function) from error
    return None


def mig_uuids(handle: Any) -> list[str] | None:
    """The UUIDs of a GPU's MIG instances; None where MIG is off or not known. Raises Fault."""
    try:
        if not pynvml.nvmlDeviceGetMigMode(handle)[0]:
            return None
        most = int(pynvml.nvmlDeviceGetMaxMigDeviceCount(handle))
    except pynvml.NVMLError as error:
        if error.value in (pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVML_ERROR_FUNCTION_NOT_FOUND):
            return None
        raise fault(error.value) from error
    found = []
    for number in range(most):
        try:
            part = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, number)
            found.append(str(pynvml.nvmlDeviceGetUUID(part)))
        except pynvml.NVMLError as error:
            if error.value != pynvml.NVML_ERROR_NOT_FOUND:
                raise fault(error.value) from error
    return found


def memory_bytes(handle: Any) -> int | None:
    """The GPU's memory; None where it does not tell. Raises Fault."""
    info = _first(handle, "nvmlDeviceGetMemoryInfo")
    return int(info.total) if info is not None else None
