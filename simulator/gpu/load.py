"""What an engine draws from its GPUs: each piece of work becomes a piece of their true curves.

Pieces follow one another at absolute times: one that begins late is dated back to the end of the last, and
only a delay beyond `stall_us` becomes a pause at idle power.

Two engines on one GPU take turns, as processes do that share a GPU without MPS: the GPU runs the kernels of
one at a time. Each holds the turn for one piece of work; `Turns` hands it over between processes.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from simulator.truth import split

STALL_US = 100_000
"""How late a step may begin and still be dated back to the end of the last one."""


class Curve(Protocol):
    """Where the true energy goes; `simulator.gpu.board.Board` is one. Monotonic us, cumulative uJ."""

    def extend(self, gpu: int, t_us: int, energy_uj: int) -> None: ...

    def energy_uj(self, gpu: int, t_us: int) -> int: ...

    def last(self, gpu: int) -> tuple[int, int]: ...


def now_us() -> int:
    """CLOCK_MONOTONIC in microseconds, the board's clock."""
    return time.monotonic_ns() // 1000


class Load:
    """The work of one engine on the GPUs `gpus` of a curve. `idle_uj` is what they drew before its pieces,
    while nobody worked; `drawn_uj` what it has drawn itself."""

    def __init__(self, curve: Curve, gpus: Sequence[int], stall_us: int = STALL_US) -> None:
        self.idle_uj = 0
        self.drawn_uj = 0
        self._curve = curve
        self._gpus = list(gpus)
        self._stall_us = stall_us
        # An engine that was killed in a step may have left a point that still lies ahead.
        self._since_us = self.end_us = max(now_us(), self._written_us())

    @property
    def curve_uj(self) -> int:
        """Energy of the curve that is accounted for since this engine came up, over all its GPUs."""
        return self.idle_uj + self.drawn_uj

    def _written_us(self) -> int:
        return max(self._curve.last(gpu)[0] for gpu in self._gpus)

    def next_us(self, after_pause: bool) -> int:
        """When a piece that is ready now begins."""
        self.end_us = max(self.end_us, self._written_us())  # another engine may have worked meanwhile
        late_us = max(0, now_us() - self.end_us)
        return self.end_us + (late_us if after_pause or late_us > self._stall_us else 0)

    def draw(self, start_us: int, time_us: int, energy_uj: int) -> None:
        """A piece of work begins at `start_us` (from `next_us`), in equal parts on all GPUs."""
        for gpu, part_uj in zip(self._gpus, split(energy_uj, [1.0] * len(self._gpus)), strict=True):
            last_us, last_uj = self._curve.last(gpu)
            begin_uj = self._curve.energy_uj(gpu, start_us)
            before_uj = last_uj if last_us >= self._since_us else self._curve.energy_uj(gpu, self._since_us)
            self.idle_uj += begin_uj - before_uj
            if start_us > last_us:  # the board itself went on at idle power up to here
                self._curve.extend(gpu, start_us, begin_uj)
            self._curve.extend(gpu, start_us + time_us, begin_uj + part_uj)
        self.drawn_uj += energy_uj
        self.end_us = start_us + time_us


class Turns:
    """`async with turns:` around a piece of work that needs the GPUs for itself.

    Two locks per GPU, in files beside the board: who wants the turn takes the first and keeps it until it has
    the second, which is the turn. So nobody gets two turns in a row while another one waits. Without a
    directory it does nothing: the GPUs belong to one engine.
    """

    def __init__(self, board: Path | None = None, gpus: Sequence[int] = ()) -> None:
        self._locks: list[tuple[int, int]] = []
        if board is not None:
            for gpu in gpus:
                paths = [board.with_name(f"{board.name}.{gpu}.{name}") for name in ("next", "turn")]
                door, turn = (os.open(path, os.O_RDWR | os.O_CREAT, 0o600) for path in paths)
                self._locks.append((door, turn))

    @property
    def shared(self) -> bool:
        return bool(self._locks)

    async def __aenter__(self) -> Self:
        for door, turn in self._locks:
            await _take(door)
            await _take(turn)
            fcntl.flock(door, fcntl.LOCK_UN)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for _, turn in self._locks:
            fcntl.flock(turn, fcntl.LOCK_UN)


async def _take(lock: int) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        await asyncio.to_thread(fcntl.flock, lock, fcntl.LOCK_EX)
