"""Where a level's steady state begins and ends. Pure.

It begins no sooner than the paper's (arXiv 2601.22076): when as many requests as are to be in flight have
sent their first token. From there the marginal standard error rule (MSER, White 1997, Simulation 69) moves it
on: so many moments are left out from the front as make the standard error of the mean of the rest smallest,
at most half of them. It is asked of tokens per second and of power; the later answer counts. It ends when
nothing is sent any more.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

FEWEST = 8
"""Fewer moments than these are taken as they are."""

MANY, GROUP = 100, 5
"""From `MANY` moments on, `GROUP` of them count as one (MSER-5)."""

DRIFT = 0.05
"""Halves of the steady state that differ by more are told: it was not steady."""


def truncation(series: Floats) -> int:
    """How many moments to leave out from the front."""
    if len(series) < FEWEST:
        return 0
    group = GROUP if len(series) >= MANY else 1
    count = len(series) // group
    grouped = series[: count * group].reshape(count, group).mean(axis=1)
    errors = [float(grouped[left:].var() / (count - left)) for left in range(count // 2 + 1)]
    return group * int(np.argmin(errors))


def warm_at(first_tokens_at: Sequence[float], in_flight: int) -> float | None:
    """When `in_flight` requests have sent their first token; None if so many never did."""
    ordered = sorted(first_tokens_at)
    return ordered[in_flight - 1] if 0 < in_flight <= len(ordered) else None


def drift(above: Floats, below: Floats) -> float | None:
    """By how much the ratio's second half differs from its first, as a share; None where it cannot be
    told.
    """
    half = len(above) // 2
    if half < FEWEST // 2 or not below[:half].sum() or not below[half:].sum() or not above[:half].sum():
        return None
    first, second = above[:half].sum() / below[:half].sum(), above[half:].sum() / below[half:].sum()
    return float(second / first - 1)
