"""What this machine's GPUs are and how each could be measured: asked once, in the child process."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import msgspec

from accounting.meters.faults import Fault
from accounting.meters.nvml import Nvml, memory_bytes, mig_uuids
from accounting.meters.pace import percentiles
from accounting.meters.sources import Source, candidates, choose, try_out
from accounting.meters.wire import GpuInfo, Listing, SourceInfo

TIMED_CALLS = 20


def list_gpus(library: Path | None, patience_s: float) -> Listing:
    """Ask NVML once. A GPU that does not answer is listed with the problem it has."""
    try:
        nvml = Nvml(library)
        count = nvml.count()
    except Fault as fault:
        return Listing(problem=str(fault), code=fault.code)
    asked = [_Question(nvml, index) for index in range(count)]
    for question in asked:
        question.start()
    end_s = time.monotonic() + patience_s
    for question in asked:
        question.join(max(end_s - time.monotonic(), 0))
    return Listing(gpus=[question.answer() for question in asked])


class _Question(threading.Thread):
    """Asks one GPU; a call that hangs holds up no other."""

    def __init__(self, nvml: Nvml, index: int) -> None:
        super().__init__(daemon=True)
        self._nvml, self._index = nvml, index
        self._info = GpuInfo(
            index=index,
            uuid=None,
            name=None,
            power_limit_mw=None,
            driver_version=nvml.driver_version,
            simulated=nvml.simulated,
            method="none",
        )

    def run(self) -> None:
        try:
            self._ask()
        except Fault as fault:
            self._know(problem=str(fault), code=fault.code)

    def answer(self) -> GpuInfo:
        if self.is_alive():
            fault = Fault("STALE")
            self._know(problem=str(fault), code=fault.code)
        return self._info

    def _know(self, **known: object) -> None:
        self._info = msgspec.structs.replace(self._info, **known)

    def _ask(self) -> None:
        device = self._nvml.device(self._index)
        self._know(uuid=device.uuid, name=device.name, power_limit_mw=device.power_limit_mw)
        sources = candidates(device)
        self._know(sources=[_look(source) for source in sources])
        self._know(mig=mig_uuids(device.handle), memory_bytes=memory_bytes(device.handle))
        self._know(method=choose(sources).source.method)


def _look(source: Source) -> SourceInfo:
    fault = try_out(source)
    if fault is not None:
        return SourceInfo(name=source.name, method=source.method, problem=fault.code)
    taken_us = []
    for _ in range(TIMED_CALLS):
        begin_ns = time.perf_counter_ns()
        if try_out(source) is None:
            taken_us.append((time.perf_counter_ns() - begin_ns) // 1000)
    call_us = percentiles(taken_us)[0] if taken_us else None
    return SourceInfo(name=source.name, method=source.method, call_us=call_us)
