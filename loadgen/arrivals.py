"""When requests are meant to be sent, whatever the server does. Pure; times in seconds since the beginning.

A closed loop sends the next request when an answer has come, so a slow server slows its own load down. An
open one sends at these times: latency counted from them shows every delay, the load generator's own included.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import count, pairwise
from pathlib import Path

BURST = 8
"""Requests of a burst that come at once."""

KINDS = ("constant", "poisson", "bursty")


def arrivals(kind: str, rate_per_s: float, pick: random.Random) -> Iterator[float]:
    """Endless arrival times with a mean rate: evenly apart, at random (Poisson), or in bursts at random.

    Raises ValueError for an unknown kind or a rate that is not above 0.
    """
    if kind not in KINDS:
        raise ValueError(f"arrivals are one of {', '.join(KINDS)}, not {kind!r}")
    if not rate_per_s > 0:
        raise ValueError("the rate must be above 0")
    return _arrivals(kind, rate_per_s, pick)


def _arrivals(kind: str, rate_per_s: float, pick: random.Random) -> Iterator[float]:
    if kind == "constant":
        yield from (number / rate_per_s for number in count())
    size = BURST if kind == "bursty" else 1
    now_s = 0.0
    while True:
        now_s += pick.expovariate(rate_per_s / size)
        yield from (now_s for _ in range(size))


def read_trace(path: Path) -> list[float]:
    """Arrival times from a file with one number of seconds per line, moved so that the first is 0.

    Raises ValueError for a line that is no number or comes before the one above it, or an empty file.
    """
    times_s = [float(line) for line in path.read_text().split()]
    if not times_s:
        raise ValueError(f"{path} has no arrival")
    if any(later < earlier for earlier, later in pairwise(times_s)):
        raise ValueError(f"{path}: times run backwards")
    return [time_s - times_s[0] for time_s in times_s]
