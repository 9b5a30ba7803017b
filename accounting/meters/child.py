"""One run of the sampler process: spawn it, hear it, end it. `meter.py` decides when."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys

import msgspec

from accounting.meters.ring import Read, Ring
from accounting.meters.wire import BUSY, IDLE, Config, Said, Told

COMMAND = (sys.executable, "-m", "accounting.meters.sampler")
END_S = 5.0
"""How long the child may take to end by itself."""


class Child:
    """A running sampler and our end of its ring. Raises OSError when it cannot be spawned."""

    def __init__(self, config: Config, busy: bool) -> None:
        self._ring = Ring.create()
        config = msgspec.structs.replace(config, ring_fd=self._ring.fd)
        try:
            self._process = subprocess.Popen(
                [*COMMAND, msgspec.json.encode(config).decode()],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,
                pass_fds=[self._ring.fd],
            )
        except OSError:
            self._ring.close()
            raise
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in, self._out = self._process.stdin, self._process.stdout
        os.set_blocking(self._out.fileno(), False)
        self._partial = b""
        self._told: list[Told] = []
        self.pid = self._process.pid
        self.lost_reads = 0
        self.set_busy(busy)

    def set_busy(self, busy: bool) -> None:
        with contextlib.suppress(BrokenPipeError):  # it has died: `ended` says so
            self._in.write(BUSY if busy else IDLE)

    def drain(self) -> list[tuple[int, Said | Read]]:
        """What it said since the last call, each with the GPU's slot, in the order in which it was said."""
        records, lost = self._ring.drain()  # first: what was told before these reads can then be heard
        self.lost_reads += lost
        self._hear()
        merged: list[tuple[int, Said | Read]] = []
        for number, read in records:
            self._take_told(number, merged)
            merged.append((read.gpu, read))
        self._take_told(records[-1][0] + 1 if records else self._ring.head, merged)
        return merged

    def _take_told(self, number: int, merged: list[tuple[int, Said | Read]]) -> None:
        """Move what was said before the record `number` was written."""
        while self._told and self._told[0].after <= number:
            told = self._told.pop(0)
            merged.append((told.slot, told.event))

    def _hear(self) -> None:
        while chunk := self._out.read(65_536):  # None: nothing there now; b"": it has ended
            *lines, self._partial = (self._partial + chunk).split(b"\n")
            self._told += [msgspec.json.decode(line, type=Told) for line in lines]

    def ended(self) -> str | None:
        """How the process ended, in words; None while it runs."""
        code = self._process.poll()
        if code is None:
            return None
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"

    def close(self) -> None:
        """End the process if it still runs, and reap it."""
        self._in.close()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._out.close()
        self._ring.close()
