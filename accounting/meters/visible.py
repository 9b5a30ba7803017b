"""Which GPUs a process sees through CUDA_VISIBLE_DEVICES, as UUIDs. Pure.

The rules are CUDA's (CUDA C++ Programming Guide, appendix on environment variables): a comma-separated list
of indices and of UUIDs or their unambiguous beginnings; from the first entry on that names no GPU, nothing
is visible any more ("0,2,-1,1" shows 0 and 2). A MIG instance is shown as the GPU that it is a part of, as
its energy cannot be told from that GPU's.

CUDA counts the fastest GPU first unless CUDA_DEVICE_ORDER=PCI_BUS_ID; here indices are in PCI order, which is
the same on a machine whose GPUs are all alike. UUIDs are the safe form.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Listed(Protocol):
    """What is asked of a GPU; `wire.GpuInfo` is one."""

    @property
    def uuid(self) -> str | None: ...
    @property
    def mig(self) -> list[str] | None: ...


def visible(value: str | None, gpus: Sequence[Listed]) -> list[str]:
    """The UUIDs that `value` shows of `gpus` (in PCI order). None, the variable unset, shows all of them.

    A GPU that is named twice, or through several of its MIG instances, comes once.
    """
    if value is None:
        return [gpu.uuid for gpu in gpus if gpu.uuid is not None]
    shown: dict[str, None] = {}
    for entry in value.split(","):
        uuid = _find(entry.strip(), gpus)
        if uuid is None:
            break
        shown[uuid] = None
    return list(shown)


def _find(entry: str, gpus: Sequence[Listed]) -> str | None:
    """The UUID of the GPU that one entry names; None where it names none, or more than one."""
    if entry.isascii() and entry.isdigit():
        return gpus[int(entry)].uuid if int(entry) < len(gpus) else None
    if entry.startswith("MIG-GPU-"):  # drivers before 470: MIG-GPU-<uuid>/<GPU instance>/<compute instance>
        return _beginning_with(entry.removeprefix("MIG-").partition("/")[0], gpus)
    if entry.startswith("MIG-"):
        return next((gpu.uuid for gpu in gpus if entry in (gpu.mig or ())), None)
    return _beginning_with(entry, gpus) if entry.startswith("GPU-") else None


def _beginning_with(start: str, gpus: Sequence[Listed]) -> str | None:
    found = [gpu.uuid for gpu in gpus if gpu.uuid is not None and gpu.uuid.startswith(start)]
    return found[0] if len(found) == 1 and start != "GPU-" else None
