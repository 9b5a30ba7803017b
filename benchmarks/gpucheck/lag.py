"""How far a counter trails the load, out of a load that was switched on and off at known times. Pure.

The energy between two edges is `idle x time + (busy - idle) x time with the load on`, the load looked at
`lag` earlier. For each lag the two powers follow by least squares; the lag that leaves the least is the one.
A GPU's power does not jump but rises over milliseconds: that rise counts as lag here, as it does for whoever
shares out the energy. Which part is the counter's cannot be told from outside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.gpucheck.edges import Edges, Floats

Burst = tuple[float, float]
"""Load on from, until: monotonic microseconds."""

FROM_US, TO_US, STEP_US = -60_000, 600_000, 1_000
LEAST_EDGES = 12
RESAMPLED = 40


@dataclass(frozen=True)
class Lag:
    lag_us: float
    lag_sd_us: float
    """One standard deviation, by drawing the edges anew."""
    idle_w: float
    busy_w: float
    unexplained: float
    """What the two powers leave of the energy's variation: 0 all explained, 1 nothing."""


def on_us(bursts: Sequence[Burst], t_us: Floats) -> Floats:
    """Time with the load on before each moment, in microseconds."""
    ends = np.asarray(sorted(bursts), float).reshape(-1, 2)
    if not len(ends):
        return np.zeros(len(t_us))
    done = np.concatenate([[0.0], np.cumsum(ends[:, 1] - ends[:, 0])])
    which = np.searchsorted(ends[:, 0], t_us, side="right") - 1
    part = np.where(which >= 0, np.minimum(t_us, ends[which, 1]) - ends[which, 0], 0.0)
    return np.asarray(np.where(which >= 0, done[np.maximum(which, 0)] + part, 0.0), float)


def find_lag(edges: Edges, bursts: Sequence[Burst], seed: int = 0) -> Lag | None:
    """None where there are too few edges, or no load that switched."""
    if len(edges.value) < LEAST_EDGES or len(bursts) < 2:
        return None
    t_us = edges.t_us
    energy_uj = np.diff(edges.value).astype(float) * 1000
    length_us = np.diff(t_us)
    lags = np.arange(FROM_US, TO_US + STEP_US, STEP_US, dtype=float)
    busy = np.stack([np.diff(on_us(bursts, t_us - lag)) for lag in lags])
    errors = np.stack([_error(energy_uj, length_us, one) for one in busy])
    best = _lowest(lags, errors.sum(axis=1))
    random = np.random.default_rng(seed)
    draws = random.integers(0, len(energy_uj), (RESAMPLED, len(energy_uj)))
    drawn = [_lowest(lags, errors[:, draw].sum(axis=1)) for draw in draws]
    busy_us = np.diff(on_us(bursts, t_us - best))
    idle_w, more_w = _powers(energy_uj, length_us, busy_us)
    left = energy_uj - idle_w * length_us - more_w * busy_us
    spread = energy_uj - length_us * (energy_uj.sum() / length_us.sum())
    return Lag(
        lag_us=best,
        lag_sd_us=float(np.std(drawn)),
        idle_w=idle_w,
        busy_w=idle_w + more_w,
        unexplained=float(np.sqrt((left**2).sum() / max((spread**2).sum(), 1.0))),
    )


def _powers(energy_uj: Floats, length_us: Floats, busy_us: Floats) -> tuple[float, float]:
    """Idle watts and the watts that the load adds (microjoules over microseconds are watts)."""
    found = np.linalg.lstsq(np.stack([length_us, busy_us], axis=1), energy_uj, rcond=None)[0]
    return float(found[0]), float(found[1])


def _error(energy_uj: Floats, length_us: Floats, busy_us: Floats) -> Floats:
    """Squared error of each stretch under the best two powers."""
    idle_w, more_w = _powers(energy_uj, length_us, busy_us)
    return (energy_uj - idle_w * length_us - more_w * busy_us) ** 2


def _lowest(lags: Floats, errors: Floats) -> float:
    """Where the errors are lowest: the vertex of the parabola through the best and its neighbours."""
    i = int(np.argmin(errors))
    if not 0 < i < len(lags) - 1:
        return float(lags[i])
    left, middle, right = (float(e) for e in errors[i - 1 : i + 2])
    bend = left - 2 * middle + right
    return float(lags[i] + (STEP_US * (left - right) / (2 * bend) if bend > 0 else 0.0))
