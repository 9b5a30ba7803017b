"""Confidence intervals by bootstrap. Pure: the same data give the same interval.

- Of a ratio of sums over time (joules per token): a moving block bootstrap. Seconds of a server are not
  independent, so blocks of consecutive ones are drawn, of length n^(1/3) x 2, rounded up (the rate at which
  blocks should grow: Hall, Horowitz and Jing 1995, Biometrika 82).
- Of a mean or quantile over requests: requests are drawn one by one.

Percentile intervals from `DRAWS` draws. They say how much the figure would scatter if the same minutes were
lived again, nothing about what the meter or the attribution gets wrong throughout.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

DRAWS = 2000
CONFIDENCE = 0.95
FEWEST = 5
"""Fewer values give no interval."""

Floats = NDArray[np.float64]
Statistic = Callable[[Floats], Floats]
"""Of each row of a matrix."""


class Interval(NamedTuple):
    low: float
    high: float


def block_length(count: int) -> int:
    return max(1, min(count // 3, int(np.ceil(2 * count ** (1 / 3)))))


def ratio_draws(above: Floats, below: Floats, seed: int = 1) -> Floats | None:
    """Bootstrap draws of sum(above) / sum(below) over consecutive moments; None for too few of them."""
    count = len(above)
    if count < FEWEST:
        return None
    pick = np.random.default_rng(seed)
    length = block_length(count)
    starts = pick.integers(0, count - length + 1, (DRAWS, -(-count // length)))
    places = (starts[:, :, None] + np.arange(length)).reshape(DRAWS, -1)[:, :count]
    bottoms = below[places].sum(axis=1)
    draws: Floats = above[places].sum(axis=1)[bottoms > 0] / bottoms[bottoms > 0]
    return draws if len(draws) else None


def draws_of(values: Floats, statistic: Statistic, seed: int = 1) -> Floats | None:
    """Bootstrap draws of a statistic of requests; None for too few of them."""
    if len(values) < FEWEST:
        return None
    pick = np.random.default_rng(seed)
    # In pieces: thousands of requests times DRAWS would be gigabytes.
    piece = max(1, min(DRAWS, 4_000_000 // len(values)))
    parts = [
        statistic(values[pick.integers(0, len(values), (min(piece, DRAWS - done), len(values)))])
        for done in range(0, DRAWS, piece)
    ]
    return np.concatenate(parts)


def mean(rows: Floats) -> Floats:
    found: Floats = rows.mean(axis=1)
    return found


def quantile(part: float) -> Statistic:
    return lambda rows: np.quantile(rows, part, axis=1)


def interval(draws: Floats | None) -> Interval | None:
    """The middle `CONFIDENCE` of the draws."""
    if draws is None:
        return None
    edge = (1 - CONFIDENCE) / 2
    low, high = np.quantile(draws, (edge, 1 - edge))
    return Interval(float(low), float(high))
