"""The truth: what each simulated GPU draws, and the windows whose energy is asked for.

A window is one request: the GPU draws some 400 to 690 W during it, wandering by up to a tenth every 20 ms,
and idles before and after it. Lengths take turns; distances are random, so that requests lie anywhere on the
counter's staircase. When requests run is known, as a proxy knows it; how much they draw is not.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from simulator.gpu.board import H100, Board

LENGTHS_MS = (50, 200, 1_000, 10_000)
GPUS = 4
PIECE_US = 20_000
GAP_MS = (250, 550)
POWER_W = (400.0, 690.0)
WANDER = 0.1
QUIET_US = 4_000_000
"""Idle time at the beginning, from which idle power is learnt."""


@dataclass(frozen=True)
class Window:
    gpu: int
    length_ms: int
    t0_us: int
    t1_us: int
    """Monotonic microseconds."""


def plan(counts: dict[int, int], begin_us: int, seed: int) -> list[Window]:
    """On every GPU `counts[length]` windows of each length, mixed, after a quiet time."""
    windows = []
    for gpu in range(GPUS):
        rng = random.Random(seed * 1_000 + gpu)
        lengths = [length for length, count in counts.items() for _ in range(count)]
        rng.shuffle(lengths)
        t_us = begin_us + QUIET_US
        for length_ms in lengths:
            t_us += round(rng.uniform(*GAP_MS) * 1000)
            windows.append(Window(gpu, length_ms, t_us, t_us + length_ms * 1000))
            t_us += length_ms * 1000
    return sorted(windows, key=lambda window: window.t0_us)


def draw(board: Board, windows: list[Window], seed: int) -> None:
    """Write the whole course onto the board, ahead of its time."""
    rng = random.Random(seed)
    for window in windows:
        board.extend(window.gpu, window.t0_us, board.energy_uj(window.gpu, window.t0_us))
        mean_w, t_us = rng.uniform(*POWER_W), window.t0_us
        while t_us < window.t1_us:
            end_us = min(t_us + PIECE_US, window.t1_us)
            power_w = min(mean_w * (1 + rng.uniform(-WANDER, WANDER)), H100.power_limit_w)
            energy_uj = board.last(window.gpu)[1] + round(power_w * (end_us - t_us))
            board.extend(window.gpu, end_us, energy_uj)
            t_us = end_us


def end_us(windows: list[Window]) -> int:
    return max(window.t1_us for window in windows)
