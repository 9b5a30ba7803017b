"""What a counter's steps tell: their period and jitter, and whether they agree with the power. Pure.

A step is known as a bracket: the last read with the old value and the first with the new one.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import sqrt
from statistics import fmean, median
from typing import NamedTuple

from accounting.events import CrossCheck

FEW_STEPS = 12
TOLERANCE = 0.10
"""The counter and the power over time may differ by this part (Zeus issue 181 saw 187 J against 327 J)."""

LAG_US = 150_000
"""How far a counter and a power sensor may be apart in time (steps of 100 ms, and both trail the truth)."""


class Step(NamedTuple):
    """The counter changed to `energy_mj` between `t_lo_us` and `t_hi_us`."""

    t_lo_us: int
    t_hi_us: int
    energy_mj: int


class Rhythm(NamedTuple):
    """`jitter_us` is the standard deviation of the steps from an even beat; None: less than could be seen."""

    period_us: int
    jitter_us: int | None


def rhythm(steps: Sequence[Step]) -> Rhythm | None:
    """The beat of the steps. None where there are too few, or where reads were too far apart to tell.

    A straight line through the brackets' middles, numbered by rounding. What the brackets' own width w adds
    to the scatter is taken off: a step lies anywhere in its bracket, which has a variance of w^2 / 12. The
    mean of n such squares is off by w^2 / sqrt(180 n), and less than that is not told from no jitter at all.
    """
    if len(steps) < FEW_STEPS:
        return None
    middles = [(step.t_lo_us + step.t_hi_us) / 2 for step in steps]
    widths = [step.t_hi_us - step.t_lo_us for step in steps]
    period = median(b - a for a, b in pairwise(middles))
    if period <= 2 * fmean(widths):
        return None  # it may step more often than it was read
    numbers = [0]
    for a, b in pairwise(middles):
        numbers.append(numbers[-1] + max(round((b - a) / period), 1))
    mean_n, mean_t = fmean(numbers), fmean(middles)
    spread = sum((n - mean_n) ** 2 for n in numbers)
    slope = sum((n - mean_n) * (t - mean_t) for n, t in zip(numbers, middles, strict=True)) / spread
    rest = [t - mean_t - slope * (n - mean_n) for n, t in zip(numbers, middles, strict=True)]
    square = fmean(w * w for w in widths)
    variance = fmean(r * r for r in rest) - square / 12
    seen = variance > square / sqrt(180 * len(widths))
    return Rhythm(round(slope), round(sqrt(variance)) if seen else None)


def cross_check(steps: Sequence[Step], powers: Sequence[tuple[int, int]]) -> CrossCheck | None:
    """The counter's energy from its first to its last step beside the power of that time. None: too little.

    `powers` are (t_us, mW) in order of time. Only steps within them count.
    """
    if len(powers) < 2:
        return None
    inside = [s for s in steps if powers[0][0] <= _middle(s) <= powers[-1][0]]
    if len(inside) < 3:
        return None
    first, last = inside[0], inside[-1]
    t0_us, t1_us = _middle(first), _middle(last)
    power_nj = 0
    for (ta_us, a_mw), (tb_us, b_mw) in pairwise(powers):
        begin_us, end_us = max(ta_us, t0_us), min(tb_us, t1_us)
        if begin_us < end_us:
            middle_mw = a_mw + (b_mw - a_mw) * ((begin_us + end_us) / 2 - ta_us) / (tb_us - ta_us)
            power_nj += round(middle_mw * (end_us - begin_us))
    counter_mj, power_mj = last.energy_mj - first.energy_mj, power_nj // 1_000_000
    least_mw, most_mw = min(p for _, p in powers), max(p for _, p in powers)
    width_us = (first.t_hi_us - first.t_lo_us + last.t_hi_us - last.t_lo_us) // 2
    steps_nj = (most_mw - least_mw) * LAG_US + most_mw * width_us
    return CrossCheck(
        over_us=t1_us - t0_us,
        counter_mj=counter_mj,
        power_mj=power_mj,
        allowed_mj=round(TOLERANCE * max(counter_mj, power_mj)) + steps_nj // 1_000_000,
    )


def _middle(step: Step) -> int:
    return (step.t_lo_us + step.t_hi_us) // 2
