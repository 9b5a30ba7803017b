"""The meter of this machine's NVIDIA GPUs: a child process reads them, `drain` says what happened.

    meter = NvmlMeter(clock)
    meter.start()
    for event in meter.drain(): ...     # as often as you like
    meter.close()

Whatever fails is an event (`MeterDown`, and `MeterUp` when it works again), never an exception: the service
goes on without joules. The codes are those of `faults.ADVICE`; STALE (no read for a while), INIT_HANGS and
SAMPLER_DIED are found here, the others by the child. Each is also a line of the log.
"""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec

from accounting.clock import Clock
from accounting.events import CounterReads, GpuTelemetry, MeterDown, MeterQuality, MeterUp
from accounting.meters.child import COMMAND, Child
from accounting.meters.contract import MeterError, MeterEvent
from accounting.meters.faults import NEEDS_NEW_PROCESS, Fault
from accounting.meters.ring import Read
from accounting.meters.wire import Config, GpuInfo, Listing, Said

__all__ = ["GpuInfo", "MeterError", "MeterEvent", "NvmlMeter", "list_gpus"]

log = logging.getLogger(__name__)

STALE_PERIODS = 5
STALE_LEAST_S = 2.0
"""A GPU is stale after 5 periods without a read, but not before 2 s: a loaded machine may be that late."""

START_S = 10.0
"""How long NVML may take to initialise before that counts as a hang (seconds; many GPUs take a few)."""

FIRST_RESTART_S, LAST_RESTART_S = 0.5, 30.0
LIST_TIMEOUT_S = 30.0


class _Gpu:
    """What the meter knows of one GPU of the present child."""

    def __init__(self, up: MeterUp) -> None:
        self.up = up
        self.state: Literal["up", "stale", "down"] = "up"
        """`stale`: no reads come, and nobody said why. `down`: the child said why."""
        self.last_us = up.t_us
        self.reads: CounterReads | None = None


class NvmlMeter:
    """Counter reads of the GPUs with these UUIDs (None: all of the machine), from a child process.

    `library` is the NVML library to load instead of the system's. `counter_lag_us` is how far the energy
    counter trails the truth, where that was calibrated. `check_s` is how long each counter is compared with
    power at first and its steps learnt (0: not at all), `better_s` how long a GPU that is not read the best
    way goes on so before the best way is tried again. To be used from one thread.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        gpus: Sequence[str] | None = None,
        library: Path | None = None,
        busy_period_s: float = 0.03,
        idle_period_s: float = 1.0,
        counter_lag_us: int | None = None,
        check_s: float = 5.0,
        better_s: float = 30.0,
    ) -> None:
        self._clock = clock
        self._config = Config(
            offset_us=clock.offset_us,
            busy_period_s=busy_period_s,
            idle_period_s=idle_period_s,
            gpus=list(gpus) if gpus is not None else None,
            library=str(library) if library is not None else None,
            counter_lag_us=counter_lag_us,
            check_s=check_s,
            better_s=better_s,
        )
        self._busy = False
        self._child: Child | None = None
        self._spawned_us = 0
        self._busy_since_us = 0
        self._restart_s = FIRST_RESTART_S
        self._restart_at_us: int | None = None
        self._gpus: dict[int, _Gpu] = {}
        self._down: dict[str, str] = {}
        self._why_new: MeterDown | None = None
        self._warned: dict[str, int | None] = {}
        self._events: list[MeterEvent] = []
        self._lost_before = 0
        self.refused_reads = 0
        """Reads that failed or could not be believed, all GPUs together."""

    @property
    def pid(self) -> int | None:
        """The child's process id; None while there is none."""
        return self._child.pid if self._child is not None else None

    @property
    def lost_reads(self) -> int:
        """Reads overwritten in the ring because `drain` was not called for a minute or more."""
        return self._lost_before + (self._child.lost_reads if self._child is not None else 0)

    def start(self) -> None:
        """Spawn the child. Raises MeterError when that is impossible; all else is told by `drain`."""
        try:
            self._spawn()
        except OSError as error:
            raise MeterError(f"the sampler process cannot be started ({COMMAND[0]}): {error}") from error

    def set_busy(self, busy: bool) -> None:
        """Read at the busy period from now on, the first time at once, or at the idle period again."""
        if busy != self._busy:
            self._busy, self._busy_since_us = busy, self._clock.now_us()
            if self._child is not None:
                self._child.set_busy(busy)

    def drain(self) -> list[MeterEvent]:
        """What happened since the last call, in order, a GPU's reads gathered. Never waits for anything."""
        now_us = self._clock.now_us()
        if self._child is not None:
            ended = self._child.ended()  # before the drain: then nothing that it said is missed
            for slot, what in self._child.drain():
                self._hear(slot, what)
            if ended is not None:
                self._bury(now_us, ended)
            else:
                self._check_stale(now_us)
        elif self._restart_at_us is not None and now_us >= self._restart_at_us:
            self._restart(now_us)
        for gpu in self._gpus.values():
            self._flush(gpu)
        events, self._events = self._events, []
        return events

    def close(self) -> None:
        """End the child and reap it. Reads not drained by then are gone. Closing twice does nothing."""
        child, self._child, self._restart_at_us = self._child, None, None
        if child is not None:
            child.close()

    def _spawn(self) -> None:
        self._child = Child(self._config, self._busy)
        self._spawned_us = self._clock.now_us()
        self._restart_at_us = None

    def _restart(self, now_us: int) -> None:
        try:
            self._spawn()
        except OSError as error:
            fault = Fault("SAMPLER_DIED", f"it cannot be started again: {error}")
            for gpu in self._config.gpus or ["*"]:
                self._say_down(now_us, gpu, fault.code, str(fault))
            self._restart_later(now_us)

    def _restart_later(self, now_us: int) -> None:
        self._restart_at_us = now_us + int(self._restart_s * 1e6)
        self._restart_s = min(2 * self._restart_s, LAST_RESTART_S)

    def _hear(self, slot: int, what: Said | Read) -> None:
        gpu = self._gpus.get(slot)
        if isinstance(what, MeterUp):
            if gpu is not None:
                self._flush(gpu)
            self._gpus[slot] = _Gpu(what)
            self._say_up(what)
        elif isinstance(what, MeterDown):
            if gpu is not None:
                self._flush(gpu)
                gpu.state = "down"
            if what.code in NEEDS_NEW_PROCESS:
                self._why_new = what
            self._say_down(what.t_us, what.gpu, what.code, what.message)
        elif isinstance(what, MeterQuality):
            self._say_quality(what)
        elif isinstance(what, GpuTelemetry):
            self._events.append(what)
        elif gpu is not None:
            self._hear_read(gpu, what)

    def _hear_read(self, gpu: _Gpu, read: Read) -> None:
        gpu.last_us = max(gpu.last_us, read.t_hi_us)
        self.refused_reads += read.status != 0
        if read.status != 0 or gpu.state == "down":
            return  # a call that failed once; if it goes on failing, the child says so
        if gpu.state == "stale":
            # A hung call has come back. Its own value is left out: it could be from any time of the hang.
            gpu.state = "up"
            gpu.up = msgspec.structs.replace(gpu.up, t_us=read.t_hi_us, new_epoch=False)
            self._say_up(gpu.up)
            return
        if gpu.reads is None:
            gpu.reads = CounterReads(gpu=gpu.up.gpu, t_lo_us=[], t_hi_us=[], energy_mj=[])
        gpu.reads.t_lo_us.append(read.t_lo_us)
        gpu.reads.t_hi_us.append(read.t_hi_us)
        gpu.reads.energy_mj.append(read.energy_mj)

    def _flush(self, gpu: _Gpu) -> None:
        if gpu.reads is not None:
            self._events.append(gpu.reads)
            gpu.reads = None

    def _say_up(self, event: MeterUp) -> None:
        self._down.pop(event.gpu, None)
        self._down.pop("*", None)
        self._events.append(event)
        not_better = f" (not better because of {event.note})" if event.note else ""
        log.info("%s is measured by its %s%s", event.gpu, event.method, not_better)

    def _say_down(self, t_us: int, gpu: str, code: str, message: str) -> None:
        """Say it once: while a GPU stays down for the same reason, repeating it tells nothing."""
        if self._down.get(gpu) != code:
            self._down[gpu] = code
            self._events.append(MeterDown(t_us=t_us, gpu=gpu, code=code, message=message))
            log.warning("%s is not measured: %s: %s", gpu, code, message)

    def _say_quality(self, event: MeterQuality) -> None:
        self._events.append(event)
        if event.warning is None:
            self._warned.pop(event.gpu, None)
        elif self._warned.get(event.gpu) != event.read_period_us:
            self._warned[event.gpu] = event.read_period_us
            log.warning("%s: %s", event.gpu, event.warning)

    def _check_stale(self, now_us: int) -> None:
        period_s = self._config.busy_period_s if self._busy else self._config.idle_period_s
        limit_us = int(max(STALE_PERIODS * period_s, STALE_LEAST_S) * 1e6)
        for gpu in self._gpus.values():
            quiet_us = now_us - max(gpu.last_us, self._busy_since_us)
            if gpu.state == "up" and quiet_us > limit_us:
                self._flush(gpu)
                gpu.state = "stale"
                fault = Fault("STALE", f"no read for {quiet_us / 1e6:.1f} s")
                self._say_down(now_us, gpu.up.gpu, fault.code, str(fault))
        if now_us - self._spawned_us > START_S * 1e6:
            for name in self._unheard():
                fault = Fault("INIT_HANGS", f"for {(now_us - self._spawned_us) / 1e6:.0f} s")
                self._say_down(now_us, name, fault.code, str(fault))

    def _unheard(self) -> list[str]:
        """The GPUs of which this child has said nothing yet ("*": of any), as far as we know their names."""
        if self._config.gpus is None:
            return [] if self._gpus or self._down else ["*"]
        heard = {gpu.up.gpu for gpu in self._gpus.values()} | self._down.keys()
        return [gpu for gpu in self._config.gpus if gpu not in heard]

    def _bury(self, now_us: int, ended: str) -> None:
        """The child is dead: say so of every GPU that it read, and start another one later."""
        assert self._child is not None
        if self._gpus and now_us - self._spawned_us > LAST_RESTART_S * 1e6:
            self._restart_s = FIRST_RESTART_S  # it worked for a good while: not the old trouble
        for gpu in self._gpus.values():
            self._flush(gpu)
        died = Fault("SAMPLER_DIED", ended)
        code, message = died.code, str(died)
        if self._why_new is not None:  # what one GPU's call told of the library holds for all
            code, message = self._why_new.code, self._why_new.message
        for name in [gpu.up.gpu for gpu in self._gpus.values() if gpu.state != "down"] + self._unheard():
            self._say_down(now_us, name, code, message)
        self._gpus, self._why_new = {}, None
        self._lost_before += self._child.lost_reads
        self._child.close()
        self._child = None
        self._restart_later(now_us)


def list_gpus(library: Path | None = None, *, patience_s: float = 10.0) -> list[GpuInfo]:
    """The GPUs of this machine, asked in a child process that ends at once.

    A GPU that has not answered after `patience_s` is listed with the problem STALE. Raises MeterError, e.g.
    "no NVIDIA driver found (libnvidia-ml.so.1) ...", also when the driver hangs.
    """
    config = Config(library=str(library) if library is not None else None, patience_s=patience_s)
    command = [*COMMAND, msgspec.json.encode(config).decode()]
    try:
        done = subprocess.run(command, capture_output=True, timeout=LIST_TIMEOUT_S, check=True)
    except subprocess.TimeoutExpired as error:
        raise MeterError(f"the NVIDIA driver has not answered for {LIST_TIMEOUT_S:.0f} s") from error
    except subprocess.CalledProcessError as error:
        raise MeterError(f"the sampler process failed: {error.stderr.decode(errors='replace')}") from error
    except OSError as error:
        raise MeterError(f"the sampler process cannot be started ({COMMAND[0]}): {error}") from error
    listing = msgspec.json.decode(done.stdout, type=Listing)
    if listing.problem is not None:
        raise MeterError(listing.problem)
    return listing.gpus
