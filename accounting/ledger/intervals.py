"""Time is cut into intervals of half a second, numbered since 1970."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

INTERVAL_US = 500_000
"""Length of an interval. At least twice the counter's period, or its edges blur the shares."""

HOLD_US = 300_000
"""An interval waits this long past its end, so that short unstreamed answers are known when it is split."""

MAX_WAIT_US = 5_000_000
"""An interval waits at most this long for the counter, and `Curve.slack_us` longer for a slow one; then it is
booked without it."""

RING = 160
"""Intervals that can be open at a time: more than the longest wait for a counter."""

MOST_PERIOD_US = 30_000_000
"""Counters that change more seldom are waited for as if they changed this often: twice it, and some, is what
the ring holds."""


def number(t_us: int) -> int:
    """The interval that holds `t_us`."""
    return t_us // INTERVAL_US


def numbers(times_us: NDArray[np.int64]) -> NDArray[np.int64]:
    """The interval that holds each of these times."""
    return times_us // INTERVAL_US


def start(t_us: int) -> int:
    """Where the interval that holds `t_us` begins."""
    return number(t_us) * INTERVAL_US
