"""A meter on another machine: a thread asks it, `drain` says what happened.

What is asked and how is a `Source`: `zeusd.Zeusd`, `dcgm.Dcgm`, `peer.Peer`. Here is what they have in
common: the pace, trying again, and judging what comes. Beside the codes of `remote_http` these are said:

    STALE          the energy has not changed, or no answer came, for the source's `stale_s`
    COUNTER_RESET  the energy went back: a driver reload or a reboot over there; measuring goes on at once
    NOT_FOUND      it does not know this GPU
    METER_DIED     a bug of ours ended the thread
"""

from __future__ import annotations

import random
import threading
from collections import deque
from collections.abc import Sequence
from typing import Protocol

import msgspec

from accounting.clock import Clock
from accounting.events import CounterReads, MeterDown, MeterUp
from accounting.meters.contract import MeterEvent
from accounting.meters.remote_http import RemoteError

DITHER = 0.25
FIRST_RETRY_S, LAST_RETRY_S = 0.5, 10.0
CLOSE_S = 10.0


class Source(Protocol):
    """How one kind of server is asked. All calls come from one thread and may block."""

    name: str
    """Kind and address, for messages."""
    busy_period_s: float
    idle_period_s: float
    stale_s: float

    def open(self) -> Sequence[MeterUp | MeterDown]:
        """Connect and find the GPUs, times of now. Raises RemoteError."""

    def read(self, busy: bool) -> list[MeterEvent]:
        """What is new, times on our clock. Raises RemoteError when nothing can be read any more."""

    def close(self) -> None:
        """Let go of the connection; `open` makes it anew."""


class _Gpu:
    """What the meter knows of one GPU."""

    def __init__(self, up: MeterUp, now_us: int) -> None:
        self.up = up
        self.is_up = True
        self.last_mj: int | None = None
        self.moved_us = self.heard_us = now_us
        """When the energy last changed, and when a read last came."""
        self.reads: CounterReads | None = None


class RemoteMeter:
    """A `Meter` of the GPUs named (None: all that the source finds)."""

    def __init__(self, source: Source, clock: Clock, *, gpus: Sequence[str] | None = None) -> None:
        self._source, self._clock = source, clock
        self._wanted = list(gpus) if gpus is not None else None
        self._busy = False
        self._wake = threading.Condition()
        self._closing = False
        self._said: deque[MeterEvent | RemoteError] = deque()
        """What the thread has to say; `drain` judges it."""
        self._opened = False
        self._opened_told: list[str] | None = None
        self._thread = threading.Thread(target=self._run, name=source.name, daemon=True)
        self._gpus: dict[str, _Gpu] = {}
        self._down: dict[str, str] = {}
        self._events: list[MeterEvent] = []

    def start(self) -> None:
        self._thread.start()

    def set_busy(self, busy: bool) -> None:
        """Ask at the busy pace from now on, the first time at once, or at the idle pace again."""
        if busy != self._busy:
            with self._wake:
                self._busy = busy
                self._wake.notify_all()

    def drain(self) -> list[MeterEvent]:
        while self._said:
            self._hear(self._said.popleft())
        now_us = self._clock.now_us()
        self._check_missing(now_us)
        self._check_stale(now_us)
        if self._thread.ident is not None and not self._thread.is_alive() and not self._closing:
            self._say_all_down(
                now_us, "METER_DIED", f"a bug ended the reading of {self._source.name}: see the log"
            )
        for gpu in self._gpus.values():
            self._flush(gpu)
        events, self._events = self._events, []
        return events

    def close(self) -> None:
        with self._wake:
            self._closing = True
            self._wake.notify_all()
        if self._thread.is_alive():
            self._thread.join(CLOSE_S)

    # -- the thread ------------------------------------------------------------------------------------------

    def _run(self) -> None:
        retry_s = FIRST_RETRY_S
        while not self._closing:
            try:
                found = self._source.open()
                self._said.extend(found)
                self._opened_told = [event.gpu for event in found]
                while not self._closing:
                    self._said.extend(self._source.read(self._busy))
                    retry_s = FIRST_RETRY_S
                    self._wait()
            except RemoteError as error:
                self._said.append(error)
            finally:
                self._source.close()
            self._pause(retry_s)
            retry_s = min(2 * retry_s, LAST_RETRY_S)

    def _wait(self) -> None:
        """Until the next read is due; at once when work begins."""
        dither = random.uniform(1 - DITHER, 1 + DITHER)
        with self._wake:
            was_busy = self._busy
            period_s = self._source.busy_period_s if was_busy else self._source.idle_period_s
            self._wake.wait_for(lambda: self._closing or (self._busy and not was_busy), period_s * dither)

    def _pause(self, seconds: float) -> None:
        with self._wake:
            self._wake.wait_for(lambda: self._closing, seconds)

    # -- judging ---------------------------------------------------------------------------------------------

    def _hear(self, what: MeterEvent | RemoteError) -> None:
        if isinstance(what, RemoteError):
            self._say_all_down(self._clock.now_us(), what.code, str(what))
            return
        if isinstance(what, MeterDown) and what.gpu == "*":  # nothing can be read over there
            self._say_all_down(what.t_us, what.code, what.message)
            return
        if self._wanted is not None and what.gpu not in self._wanted:
            return
        gpu = self._gpus.get(what.gpu)
        if isinstance(what, MeterUp):
            if gpu is not None:
                self._flush(gpu)
            self._gpus[what.gpu] = _Gpu(what, self._clock.now_us())
            self._say_up(what)
        elif isinstance(what, MeterDown):
            self._say_down(what)
        elif not isinstance(what, CounterReads):
            self._events.append(what)
        elif gpu is not None:
            for t_lo_us, t_hi_us, energy_mj in zip(what.t_lo_us, what.t_hi_us, what.energy_mj, strict=True):
                self._hear_read(gpu, t_lo_us, t_hi_us, energy_mj)

    def _hear_read(self, gpu: _Gpu, t_lo_us: int, t_hi_us: int, energy_mj: int) -> None:
        gpu.heard_us = max(gpu.heard_us, t_hi_us)
        last_mj, gpu.last_mj = gpu.last_mj, energy_mj
        if energy_mj != last_mj:
            gpu.moved_us = max(gpu.moved_us, t_hi_us)
        back = last_mj is not None and energy_mj < last_mj
        if back:
            message = f"{self._source.name}: the energy went back from {last_mj} to {energy_mj} mJ"
            self._say_down(MeterDown(t_us=t_hi_us, gpu=gpu.up.gpu, code="COUNTER_RESET", message=message))
        if not gpu.is_up:
            if energy_mj == last_mj:
                return  # stale still
            gpu.is_up, gpu.up = True, msgspec.structs.replace(gpu.up, t_us=t_hi_us, new_epoch=back)
            self._say_up(gpu.up)
        if gpu.reads is None:
            gpu.reads = CounterReads(gpu=gpu.up.gpu, t_lo_us=[], t_hi_us=[], energy_mj=[])
        gpu.reads.t_lo_us.append(t_lo_us)
        gpu.reads.t_hi_us.append(t_hi_us)
        gpu.reads.energy_mj.append(energy_mj)

    def _check_missing(self, now_us: int) -> None:
        """After a connection: which of the GPUs that we were to read are not there?"""
        found, self._opened_told = self._opened_told, None
        for gpu in (self._wanted or []) if found is not None else []:
            if found is not None and not {gpu, "*"} & {*found, *self._gpus}:
                has = ", ".join(found) or "none"
                message = f"{self._source.name} does not have this GPU; it has: {has}"
                self._say_down(MeterDown(t_us=now_us, gpu=gpu, code="NOT_FOUND", message=message))

    def _check_stale(self, now_us: int) -> None:
        limit_us = int(self._source.stale_s * 1e6)
        for gpu in self._gpus.values():
            if not gpu.is_up or now_us - gpu.moved_us <= limit_us:
                continue
            if now_us - gpu.heard_us > limit_us:
                message = f"{self._source.name} has told no energy for {(now_us - gpu.heard_us) / 1e6:.0f} s"
            else:
                seconds = (now_us - gpu.moved_us) / 1e6
                message = f"{self._source.name} serves the same energy for {seconds:.0f} s: restart it"
            self._say_down(MeterDown(t_us=now_us, gpu=gpu.up.gpu, code="STALE", message=message))

    def _say_all_down(self, t_us: int, code: str, message: str) -> None:
        """Nothing can be read: say so of every GPU that is ours ("*" where we do not know of any)."""
        for gpu in list(self._wanted or self._gpus) or ["*"]:
            self._say_down(MeterDown(t_us=t_us, gpu=gpu, code=code, message=message))

    def _say_up(self, event: MeterUp) -> None:
        self._down.pop(event.gpu, None)
        self._down.pop("*", None)
        self._events.append(event)

    def _say_down(self, event: MeterDown) -> None:
        """Say it once: while a GPU stays down for the same reason, repeating it tells nothing."""
        gpu = self._gpus.get(event.gpu)
        if gpu is not None:
            self._flush(gpu)
            gpu.is_up = False
        if self._down.get(event.gpu) != event.code:
            self._down[event.gpu] = event.code
            self._events.append(event)

    def _flush(self, gpu: _Gpu) -> None:
        if gpu.reads is not None:
            self._events.append(gpu.reads)
            gpu.reads = None
