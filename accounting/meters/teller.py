"""The child's end of the wire: reads go into the ring, all else to standard output, from any thread."""

from __future__ import annotations

import os
import threading
from collections import deque

import msgspec

from accounting.meters.ring import Ring
from accounting.meters.wire import Said, Told


class Teller:
    """Never blocks: a parent that does not listen hears later."""

    def __init__(self, ring: Ring, out_fd: int) -> None:
        self._ring, self._out_fd = ring, out_fd
        self._lock = threading.Lock()
        self._unsent: deque[bytes] = deque()
        os.set_blocking(out_fd, False)

    def read(self, slot: int, t_lo_us: int, t_hi_us: int, energy_mj: int, status: int) -> None:
        """One read, as in `ring.Read`."""
        with self._lock:
            self._ring.write(slot, t_lo_us, t_hi_us, energy_mj, status)
            if self._unsent:
                self._send()

    def tell(self, slot: int, event: Said) -> None:
        """Say it, before the record that the ring gets next."""
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
