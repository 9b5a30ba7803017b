"""Exact integer division: the parts always sum to the whole."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from numpy.typing import ArrayLike, NDArray

MAX_EXACT = 2**46
"""Up to here (70 MJ) a share in floating point is well within one of the true one."""


def apportion(total: int, parts_of: ArrayLike) -> NDArray[np.int64]:
    """Split `total` (>= 0) in proportion to `parts_of` (finite, >= 0, at least one above 0).

    Each part is its share rounded down; what is left over, at most one unit a part, goes to the parts that
    lost most by the rounding, the earlier first. A weight of 0 gets exactly 0, and the sum is `total`.
    """
    weights = np.asarray(parts_of, dtype=np.float64)
    if total < 0:
        raise ValueError(f"cannot divide {total}")
    largest = float(weights.max(initial=0.0))
    if not 0 < largest < float("inf"):
        raise ValueError("weights must be finite and one of them above 0")
    scaled = weights / largest  # neither overflow nor underflow of the sum
    if total > MAX_EXACT:
        return _apportion_large(total, weights)
    exact = scaled * (total / float(scaled.sum()))
    parts: NDArray[np.int64] = np.floor(exact).astype(np.int64)
    left = total - int(parts.sum())
    positive = np.flatnonzero(weights > 0)
    # A unit or so of rounding error can make `left` a little more than the parts, or negative.
    while left:
        order = positive[np.argsort((parts - exact)[positive], kind="stable")]
        if left > 0:
            chosen = order[:left]
            parts[chosen] += 1
            left -= len(chosen)
        else:
            chosen = order[::-1]
            chosen = chosen[parts[chosen] > 0][:-left]
            parts[chosen] -= 1
            left += len(chosen)
    return parts


def _apportion_large(total: int, weights: NDArray[np.float64]) -> NDArray[np.int64]:
    """The same where floats are not exact: each part is what the running total gains by it."""
    whole = [int(Fraction(weight) * 2**1074) for weight in weights.tolist()]
    running = given = 0
    parts = []
    for weight in whole:
        running += weight
        upto = total * running // sum(whole)
        parts.append(upto - given)
        given = upto
    return np.array(parts, dtype=np.int64)
