"""Load of a known course on one GPU: matrix products on CUDA, or power written onto the simulated board.

Both give back when the load really was on, in monotonic microseconds: that is the truth of the estimators.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from typing import Protocol

from benchmarks.gpucheck.lag import Burst
from simulator.gpu.board import Board

SPIN_S = 0.0008
"""Sleeps are late by about this much: the last bit is waited for awake."""

KERNEL_US = 300.0
"""One matrix product takes about this long, so that bursts can be a few milliseconds short."""


class Burner(Protocol):
    """Something that can load the GPU."""

    def burn(self, until_us: float) -> Burst:
        """Full load from now until then; returns when it really was on."""


class CudaBurner:
    """Products of two bf16 matrices, sized to take KERNEL_US each."""

    def __init__(self) -> None:
        import torch

        self._torch = torch
        self._n = 1024
        while self._kernel_us() < KERNEL_US and self._n < 16_384:
            self._n += 512

    def _kernel_us(self) -> float:
        torch = self._torch
        self._a = torch.randn(self._n, self._n, device="cuda", dtype=torch.bfloat16)
        self._out = torch.empty_like(self._a)
        for _ in range(3):
            torch.matmul(self._a, self._a, out=self._out)
        torch.cuda.synchronize()
        begin_us = now_us()
        for _ in range(10):
            torch.matmul(self._a, self._a, out=self._out)
        torch.cuda.synchronize()
        return (now_us() - begin_us) / 10

    def burn(self, until_us: float) -> Burst:
        torch = self._torch
        begin_us = now_us()
        while now_us() + KERNEL_US < until_us:
            # Two at a time: the next is queued while the first runs, and the end is known to one product.
            torch.matmul(self._a, self._a, out=self._out)
            torch.matmul(self._a, self._a, out=self._out)
            torch.cuda.synchronize()
        return begin_us, now_us()


class BoardBurner:
    """Writes `power_w` onto GPU 0 of a simulated board, for rehearsals."""

    def __init__(self, board: Board, power_w: float) -> None:
        self._board, self._power_w = board, power_w

    def burn(self, until_us: float) -> Burst:
        begin_us = int(now_us())
        end_us = max(int(until_us), begin_us + 1)
        self._board.extend(0, begin_us, self._board.energy_uj(0, begin_us))
        self._board.extend(0, end_us, self._board.last(0)[1] + round(self._power_w * (end_us - begin_us)))
        wait_until(end_us)
        return begin_us, end_us


def now_us() -> float:
    return time.monotonic_ns() / 1000


def wait_until(t_us: float) -> None:
    """Sleep, then spin: to within some microseconds."""
    left_s = (t_us - now_us()) / 1e6 - SPIN_S
    if left_s > 0:
        time.sleep(left_s)
    while now_us() < t_us:
        pass


def steady(burner: Burner, seconds: float) -> list[Burst]:
    return [burner.burn(now_us() + seconds * 1e6)]


def pulses(burner: Burner, seconds: float, on_us: float, period_us: float, offset_us: float) -> list[Burst]:
    """`on_us` of load at every multiple of `period_us` plus `offset_us`."""
    end_us = now_us() + seconds * 1e6
    at_us = (now_us() // period_us + 1) * period_us + offset_us
    bursts = []
    while at_us + on_us < end_us:
        wait_until(at_us)
        bursts.append(burner.burn(at_us + on_us))
        at_us += period_us
    wait_until(end_us)
    return bursts


def scattered(
    burner: Burner, seconds: float, on_ms: Sequence[float], off_ms: Sequence[float], seed: int
) -> list[Burst]:
    """Load and rest by turns, each of a random length between the two given (milliseconds)."""
    rng = random.Random(seed)
    end_us = now_us() + seconds * 1e6
    bursts = []
    while now_us() < end_us:
        wait_until(now_us() + rng.uniform(off_ms[0], off_ms[1]) * 1000)
        bursts.append(burner.burn(now_us() + rng.uniform(on_ms[0], on_ms[1]) * 1000))
    return bursts
