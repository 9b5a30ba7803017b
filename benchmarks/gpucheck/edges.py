"""When a counter moves: its update period and its jitter, out of fast reads. Pure.

A counter is a staircase. An edge lies between the last read that shows the old value and the first that shows
the new one; that bracket is all that is known of its time. A grid `t = start + n * period` is fitted to the
brackets' middles; what they stray from it, less what the brackets' own width explains, is the jitter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

LEAST_EDGES = 8
"""Fewer say nothing of a period."""

ROUNDS = 5
STRAY = 0.3
"""An edge further than this part of a period from the grid is odd: left out of the fit, and counted."""


class Reads(NamedTuple):
    """Reads in order: read k was taken between t_lo_us[k] and t_hi_us[k] (monotonic) and showed value[k]."""

    t_lo_us: Ints
    t_hi_us: Ints
    value: Ints


class Edges(NamedTuple):
    """Edge k lies within [lo_us[k], hi_us[k]]; from then on the counter shows value[k]."""

    lo_us: Ints
    hi_us: Ints
    value: Ints

    @property
    def t_us(self) -> Floats:
        """The middles of the brackets."""
        return (self.lo_us + self.hi_us) / 2


@dataclass(frozen=True)
class Cadence:
    """How a counter moves. Times in microseconds."""

    period_us: float
    jitter_sd_us: float
    """Standard deviation of an edge from the grid, the brackets' own width taken out."""
    jitter_p95_us: float
    """95th percentile of an edge's distance from the grid, brackets included: an upper bound."""
    bracket_us: float
    """Median width of the brackets: how well an edge is seen."""
    edges: int
    odd: int
    """Edges far from the grid: the counter does not keep one, or an update was late."""
    skipped: int
    """Places of the grid where the value did not change."""


def find_edges(reads: Reads) -> Edges:
    """Every change of the value, the first read's own value not counted."""
    changed = np.flatnonzero(np.diff(reads.value)) + 1
    return Edges(reads.t_lo_us[changed - 1], reads.t_hi_us[changed], reads.value[changed])


def cadence(edges: Edges) -> Cadence | None:
    """Fit the grid. None where there are too few edges for one."""
    if len(edges.value) < LEAST_EDGES:
        return None
    t_us = edges.t_us - edges.t_us[0]
    period_us = float(np.median(np.diff(t_us)))
    steps = np.concatenate([[0], np.cumsum(np.maximum(np.rint(np.diff(t_us) / period_us), 1))])
    kept = np.ones(len(t_us), bool)
    start_us = 0.0
    for _ in range(ROUNDS):
        period_us, start_us = (float(x) for x in np.polyfit(steps[kept], t_us[kept], 1))
        stray = t_us - (start_us + steps * period_us)
        now_kept = np.abs(stray) <= STRAY * period_us
        if now_kept.sum() < LEAST_EDGES or (now_kept == kept).all():
            break
        kept = now_kept
    stray = (t_us - (start_us + steps * period_us))[kept]
    width_us = (edges.hi_us - edges.lo_us)[kept]
    seen = float(np.mean(width_us.astype(float) ** 2)) / 12  # the variance of an edge anywhere in its bracket
    return Cadence(
        period_us=period_us,
        jitter_sd_us=float(np.sqrt(max(float(np.var(stray)) - seen, 0.0))),
        jitter_p95_us=float(np.percentile(np.abs(stray), 95)),
        bracket_us=float(np.median(width_us)),
        edges=len(t_us),
        odd=int((~kept).sum()),
        skipped=int(steps[-1]) + 1 - len(t_us),
    )
