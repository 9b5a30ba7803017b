"""The child process that reads the GPUs: `python -m accounting.meters.sampler CONFIG` (see wire.py).

A process of its own, because a thread beside a busy interpreter reads too late, and because NVML must not be
initialised in a process that may fork. One thread per GPU, so that a call that hangs holds up its GPU only;
the main thread does nothing but listen for the parent, and ends the process when the parent is gone, hung
calls or not.

The periods are dithered by a quarter: read in step with it, a counter's edges are found systematically late.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import msgspec

from accounting.clock import Clock
from accounting.events import MeterDown, MeterUp
from accounting.meters.nvml import Nvml, NvmlError
from accounting.meters.ring import Read, Ring
from accounting.meters.sources import TRIES, Source, probe
from accounting.meters.wire import BUSY, Config, GpuInfo, Listing, Told

DITHER = 0.25
CALL_SHARE = 0.05
SLOWEST_S = 1.0
"""At most this part of the time is spent in NVML calls: slow ones become rarer, down to one per second."""

FIRST_RETRY_S, LAST_RETRY_S = 0.5, 30.0

GONE = ("GPU_IS_LOST", "RESET_REQUIRED", "GPU_NOT_FOUND", "NOT_FOUND", "NO_PERMISSION")
"""Errors that are believed at once. Others must come `TRIES` times in a row."""

NEEDS_NEW_PROCESS = ("UNINITIALIZED", "DRIVER_NOT_LOADED", "LIB_RM_VERSION_MISMATCH")
"""Errors of the library rather than of a GPU: only a fresh process gets over them."""

EXIT_START_AGAIN = 75
EXIT_BUG = 70


class Pace:
    """How often to read, told by the parent. `wait` ends early when work begins."""

    def __init__(self, busy_period_s: float, idle_period_s: float) -> None:
        self._busy_period_s, self._idle_period_s = busy_period_s, idle_period_s
        self._busy = False
        self._changed = threading.Condition()

    def set_busy(self, busy: bool) -> None:
        with self._changed:
            self._busy = busy
            self._changed.notify_all()

    def wait(self, call_s: float) -> None:
        """Sleep until the next read is due; `call_s` is how long the last one took."""
        begin_s = time.monotonic()
        dither = random.uniform(1 - DITHER, 1 + DITHER)
        with self._changed:
            while True:
                period_s = self._busy_period_s if self._busy else self._idle_period_s
                slow_s = min(call_s / CALL_SHARE, SLOWEST_S)
                left_s = begin_s + max(period_s * dither, slow_s) - time.monotonic()
                if left_s <= 0:
                    return
                was_busy = self._busy
                self._changed.wait(left_s)
                if self._busy and not was_busy:
                    return


class Teller:
    """Writes what happens to the ring and to standard output, from any thread, without ever blocking."""

    def __init__(self, ring: Ring, out_fd: int) -> None:
        self._ring, self._out_fd = ring, out_fd
        self._lock = threading.Lock()
        self._unsent: deque[bytes] = deque()
        os.set_blocking(out_fd, False)

    def read(self, read: Read) -> None:
        with self._lock:
            self._ring.write(read)
            if self._unsent:
                self._send()

    def tell(self, slot: int, event: MeterUp | MeterDown) -> None:
        with self._lock:
            told = Told(after=self._ring.head, slot=slot, event=event)
            self._unsent.append(msgspec.json.encode(told) + b"\n")
            self._send()

    def _send(self) -> None:
        while self._unsent:
            line = self._unsent.popleft()
            try:
                sent = os.write(self._out_fd, line)
            except BlockingIOError:
                sent = 0  # the parent is slow to listen; the line goes with a later read
            if sent < len(line):
                self._unsent.appendleft(line[sent:])
                return


class GpuThread(threading.Thread):
    """Reads one GPU for as long as the process lives: find it, read it, and start over when it fails."""

    def __init__(
        self, nvml: Nvml, which: str | int, slot: int, clock: Clock, pace: Pace, teller: Teller
    ) -> None:
        super().__init__(name=f"gpu-{which}", daemon=True)
        self._nvml, self._which, self._slot = nvml, which, slot
        self._clock, self._pace, self._teller = clock, pace, teller
        self._known_as = which if isinstance(which, str) else f"index {which}"
        self._down_as: str | None = None

    def run(self) -> None:
        retry_s = FIRST_RETRY_S
        while True:
            begin_s = time.monotonic()
            try:
                self._sample(self._find())
            except NvmlError as error:
                if time.monotonic() - begin_s > LAST_RETRY_S:
                    retry_s = FIRST_RETRY_S  # it worked for a good while: not the old trouble
                if error.name != self._down_as:
                    self._down_as = error.name
                    self._teller.tell(self._slot, down(self._clock, self._known_as, error))
                if error.name in NEEDS_NEW_PROCESS:
                    os._exit(EXIT_START_AGAIN)
            time.sleep(retry_s)
            retry_s = min(2 * retry_s, LAST_RETRY_S)

    def _find(self) -> Source:
        device = self._nvml.device(self._which)
        source = probe(device)
        self._known_as, self._down_as = device.uuid, None
        event = MeterUp(
            t_us=self._clock.now_us(),
            gpu=device.uuid,
            device=device.name,
            method=source.method,
            simulated=self._nvml.simulated,
            lag_us=source.lag_us,
            power_limit_mw=device.power_limit_mw,
        )
        self._teller.tell(self._slot, event)
        return source

    def _sample(self, source: Source) -> None:
        """Read until the GPU fails for good: raises NvmlError."""
        failed = 0
        while True:
            energy_mj, status = 0, 0
            t_lo_us = self._clock.now_us()
            try:
                energy_mj = source.read_mj()
                failed = 0
            except NvmlError as error:
                status, failed = error.code, failed + 1
                if failed >= TRIES or error.name in GONE or error.name in NEEDS_NEW_PROCESS:
                    raise
            t_hi_us = self._clock.now_us()
            self._teller.read(Read(self._slot, t_lo_us, t_hi_us, energy_mj, status))
            self._pace.wait((t_hi_us - t_lo_us) / 1e6)


def down(clock: Clock, gpu: str, error: NvmlError) -> MeterDown:
    return MeterDown(t_us=clock.now_us(), gpu=gpu, code=error.name, message=str(error))


def sample(config: Config, clock: Clock, pace: Pace, teller: Teller) -> None:
    """Start a thread for each GPU. Ends the process when NVML cannot be used at all."""
    try:
        nvml = Nvml(Path(config.library) if config.library else None)
        which: Sequence[str | int] = config.gpus if config.gpus is not None else range(nvml.count())
        if not which:
            raise NvmlError(6, "the driver lists no GPU")
    except NvmlError as error:
        for slot, gpu in enumerate(config.gpus if config.gpus else ["*"]):
            teller.tell(slot, down(clock, gpu, error))
        os._exit(EXIT_START_AGAIN)
    for slot, one in enumerate(which):
        GpuThread(nvml, one, slot, clock, pace, teller).start()


def list_gpus(library: Path | None) -> Listing:
    """Ask NVML once. A GPU that does not answer is listed with the problem it has."""
    try:
        nvml = Nvml(library)
        count = nvml.count()
    except NvmlError as error:
        return Listing(problem=str(error))
    gpus = []
    for index in range(count):
        info = GpuInfo(
            index=index,
            uuid=None,
            name=None,
            power_limit_mw=None,
            driver_version=nvml.driver_version,
            simulated=nvml.simulated,
            method="none",
        )
        try:
            device = nvml.device(index)
            info = msgspec.structs.replace(
                info, uuid=device.uuid, name=device.name, power_limit_mw=device.power_limit_mw
            )
            info = msgspec.structs.replace(info, method=probe(device).method)
        except NvmlError as error:
            info = msgspec.structs.replace(info, problem=str(error))
        gpus.append(info)
    return Listing(gpus=gpus)


def main() -> None:
    config = msgspec.json.decode(sys.argv[1], type=Config)
    if config.ring_fd is None:
        listing = list_gpus(Path(config.library) if config.library else None)
        sys.stdout.buffer.write(msgspec.json.encode(listing))
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends us itself
    threading.excepthook = end_on_bug
    clock, pace = Clock(config.offset_us), Pace(config.busy_period_s, config.idle_period_s)
    out_fd = os.dup(sys.stdout.fileno())
    os.dup2(
        sys.stderr.fileno(), sys.stdout.fileno()
    )  # whatever a library prints must not end up among our lines
    teller = Teller(Ring(config.ring_fd), out_fd)
    # The main thread must hear the parent from the start: already the library's init can hang.
    threading.Thread(target=sample, args=(config, clock, pace, teller), daemon=True).start()
    while command := os.read(sys.stdin.fileno(), 64):
        pace.set_busy(command[-1:] == BUSY)
    os._exit(0)


def end_on_bug(args: threading.ExceptHookArgs) -> None:
    """A thread that died of a bug would leave a GPU unread for ever; a new process reads it again."""
    trace: TracebackType | None = args.exc_traceback
    sys.__excepthook__(args.exc_type, args.exc_value or args.exc_type(), trace)
    sys.stderr.flush()
    os._exit(EXIT_BUG)


if __name__ == "__main__":
    main()
