"""Exact integer division: the parts always sum to the whole."""

from __future__ import annotations

from collections.abc import Sequence


def apportion(total: int, weights: Sequence[int]) -> list[int]:
    """Split `total` in proportion to `weights` (non-negative integers, at least one above 0).

    Cumulative rounding: part i is what the running total gains by it, so every part is within 1 of its exact
    share, a weight of 0 gets exactly 0, and the sum is `total` whatever the weights are.
    """
    whole = sum(weights)
    if whole <= 0:
        raise ValueError("at least one weight must be above 0")
    parts = []
    running = 0
    given = 0
    for weight in weights:
        running += weight
        upto = total * running // whole
        parts.append(upto - given)
        given = upto
    return parts
