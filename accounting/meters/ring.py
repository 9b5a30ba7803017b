"""A ring of counter reads in shared memory: one process writes, one reads, neither waits for the other.

The ring lives in anonymous memory that is handed to the child process as a file descriptor, so nothing is
left behind by a crash. A writer that laps the reader overwrites the oldest records; the reader is told how
many. Each record carries its number and a checksum: one that is being rewritten, or not wholly visible yet,
does not pass for a read.
"""

from __future__ import annotations

import mmap
import os
import struct
import zlib
from typing import NamedTuple

CAPACITY = 16_384
"""Records: at 30 ms, eight GPUs fill the ring in one minute."""

_HEADER = 64
_BODY = struct.Struct("=QIiqqQ")
_CHECK = struct.Struct("=Q")
_SIZE = _BODY.size + _CHECK.size
_WORD = 2**64 - 1


class Read(NamedTuple):
    """One call of the sampler: energy_mj as read between t_lo_us and t_hi_us (UTC microseconds).

    `gpu` is the sampler's number for the GPU. `status` is 0, or NVML's return code: then there is no energy.
    """

    gpu: int
    t_lo_us: int
    t_hi_us: int
    energy_mj: int
    status: int


class Ring:
    """Either end of the ring. `head` counts the records ever written."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._map = mmap.mmap(fd, _HEADER + CAPACITY * _SIZE)
        self._words = memoryview(self._map)[:_HEADER].cast("Q")  # stored and loaded as one word
        self._tail = 0

    @classmethod
    def create(cls) -> Ring:
        """A new, empty ring; its `fd` can be inherited by a child that then calls `Ring(fd)`."""
        fd = os.memfd_create("joulegate-ring")
        os.ftruncate(fd, _HEADER + CAPACITY * _SIZE)
        return cls(fd)

    @property
    def head(self) -> int:
        return self._words[0]

    def write(self, gpu: int, t_lo_us: int, t_hi_us: int, energy_mj: int, status: int) -> None:
        """Append a record; the oldest one gives way when the ring is full."""
        number = self._words[0]
        body = _BODY.pack(number, gpu, status, t_lo_us, t_hi_us, energy_mj & _WORD)
        at = _HEADER + number % CAPACITY * _SIZE
        self._map[at : at + _SIZE] = body + _CHECK.pack(zlib.crc32(body) + 1)
        self._words[0] = number + 1

    def drain(self) -> tuple[list[tuple[int, Read]], int]:
        """The records since the last call, each with its number, and how many were overwritten unseen."""
        head, lost = self.head, 0
        if head - self._tail > CAPACITY:
            lost = head - self._tail - CAPACITY
            self._tail += lost
        records = []
        while self._tail < head:
            at = _HEADER + self._tail % CAPACITY * _SIZE
            record = self._map[at : at + _SIZE]
            body = record[: _BODY.size]
            number, gpu, status, t_lo_us, t_hi_us, energy_mj = _BODY.unpack(body)
            if record[_BODY.size :] != _CHECK.pack(zlib.crc32(body) + 1) or number != self._tail:
                if self.head - self._tail < CAPACITY:
                    break  # not wholly visible yet: the next call finds it
                lost += 1  # the writer has lapped us
            else:
                records.append((number, Read(gpu, t_lo_us, t_hi_us, energy_mj, status)))
            self._tail += 1
        return records, lost

    def close(self) -> None:
        """Let go of the memory. Closing twice does nothing."""
        if not self._map.closed:
            self._words.release()
            self._map.close()
            os.close(self.fd)
