"""What can go wrong with the energy of a GPU: a code for metrics and, for whoever has to act, what to do.

Codes are NVML's names without NVML_ERROR_ where NVML gave an error, and ours for what NVML does not see:
COUNTER_FROZEN, COUNTER_RESET, COUNTER_JUMPED, IMPOSSIBLE_POWER, STALE, INIT_HANGS and SAMPLER_DIED.
docs/meters.md has them all in a table.
"""

from __future__ import annotations

ADVICE = {
    "LIBRARY_NOT_FOUND": "no NVIDIA driver found (libnvidia-ml.so.1): install it, or pass it to containers",
    "DRIVER_NOT_LOADED": "the NVIDIA driver is installed but not loaded: try `nvidia-smi`, or reboot",
    "LIB_RM_VERSION_MISMATCH": "the driver was upgraded under a running kernel module: reload it, or reboot",
    "UNINITIALIZED": "NVML lost its state: the sampler starts again by itself",
    "NO_PERMISSION": "no permission to read the GPU: check the device files and the container's rights",
    "GPU_IS_LOST": "the GPU fell off the bus (see Xid 79 in dmesg): it needs a reset or a reboot",
    "RESET_REQUIRED": "the GPU must be reset before it works again",
    "NOT_FOUND": "there is no GPU with this UUID: `nvidia-smi -L` lists them",
    "UNKNOWN": "NVML gives no reason; in a container whose host ran `systemctl daemon-reload` it does not"
    " heal: restart the container",
    "NOT_SUPPORTED": "the GPU or its driver does not offer this (before Volta, or a vGPU)",
    "FUNCTION_NOT_FOUND": "the driver is too old to know this call",
    "COUNTER_FROZEN": "the energy counter stands still although power is drawn: power is read instead, if it"
    " can be. A reset of the GPU or of the driver helps as a rule",
    "COUNTER_RESET": "the energy counter ran backwards, as when the driver is loaded again: begun anew",
    "COUNTER_JUMPED": "the energy counter rose by more than the GPU can draw: begun anew",
    "IMPOSSIBLE_POWER": "the power sensor says more than the GPU can draw: not used",
    "STALE": "an NVML call hangs: see dmesg for Xid errors and `nvidia-smi` for whether it hangs too",
    "INIT_HANGS": "NVML does not finish its start, the driver hangs: see dmesg; a reboot may be needed",
    "SAMPLER_DIED": "the sampler process ended; it is started again by itself",
}
"""What each code means and what to do about it."""

TRIES = 3
"""A fault must come this often in a row to be believed: NVML refuses single calls when polled fast."""

GONE = frozenset({"GPU_IS_LOST", "RESET_REQUIRED", "GPU_NOT_FOUND", "NOT_FOUND", "NO_PERMISSION"})
"""Faults of a whole GPU, believed at once: no other way to read it would do better."""

NEEDS_NEW_PROCESS = frozenset(
    {"UNINITIALIZED", "DRIVER_NOT_LOADED", "LIB_RM_VERSION_MISMATCH", "LIBRARY_NOT_FOUND"}
)
"""Faults of the library rather than of a GPU: only a fresh process gets over them."""

BEGINS_ANEW = frozenset({"COUNTER_RESET", "COUNTER_JUMPED"})
"""Faults after which the same counter goes on from a value that says nothing of the time before."""


class Fault(Exception):
    """Energy could not be read, or not be believed. `str()` is for people: what it is and what to do."""

    def __init__(self, code: str, detail: str = "", *, status: int = -1) -> None:
        """`status` is NVML's return code; -1 where the fault is not NVML's."""
        self.code, self.detail, self.status = code, detail, status
        message = ADVICE.get(code, f"NVML error {code}")
        super().__init__(f"{message} ({detail})" if detail else message)

    @property
    def is_final(self) -> bool:
        """Whether trying again at once is useless."""
        return self.code in GONE or self.code in NEEDS_NEW_PROCESS
