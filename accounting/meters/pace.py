"""When to read next: often while requests run, seldom otherwise, more seldom where calls are slow.

The periods are dithered by a quarter: read in step with it, a counter's edges are found systematically late.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections import deque

DITHER = 0.25
HURRY_PERIOD_S = 0.01

WINDOW = 40
"""Calls after which the pace is judged anew; two of them may be slow by chance (another process ran)."""

QUICK = 10
"""So many quick calls bring the pace back: where it is slow, forty would take too long."""

SLOW_US = 1_000
"""Calls whose 95th percentile is above this are made half as often; below half of it, twice as often."""

SLOWEST_S = 1.0


class Pace:
    """The time between two rounds of reads, told by the parent. One thread waits, others change the pace."""

    def __init__(self, busy_period_s: float, idle_period_s: float) -> None:
        self.busy_period_s, self.idle_period_s = busy_period_s, idle_period_s
        self.busy = False
        self._hurry_until_s = 0.0
        self._asleep = threading.Lock()  # taken by `wait`, given by `nudge`: one call each, and cheap
        self._asleep.acquire()

    def set_busy(self, busy: bool) -> None:
        """Requests run, or none. When work begins the next round comes at once."""
        begins = busy and not self.busy
        self.busy = busy
        if begins:
            self.nudge()

    def hurry(self, for_s: float) -> None:
        """Read every 10 ms for so long: to learn a counter's steps."""
        self._hurry_until_s = max(self._hurry_until_s, time.monotonic() + for_s)
        self.nudge()

    def nudge(self) -> None:
        """Have the next round at once."""
        with contextlib.suppress(RuntimeError):  # given already: it will come
            self._asleep.release()

    @property
    def period_s(self) -> float:
        """Time between two rounds now."""
        usual_s = self.busy_period_s if self.busy else self.idle_period_s
        return min(usual_s, HURRY_PERIOD_S) if time.monotonic() < self._hurry_until_s else usual_s

    def wait(self) -> None:
        """Sleep until the next round is due."""
        self._asleep.acquire(timeout=self.period_s * random.uniform(1 - DITHER, 1 + DITHER))


class Calls:
    """How long one GPU's calls take, and how much more seldom they are made for that."""

    def __init__(self) -> None:
        self.taken_us: deque[int] = deque(maxlen=WINDOW)
        """The last calls. The hot loop appends, nothing more."""
        self.p50_us: int | None = None
        self.p95_us: int | None = None
        self.every = 1
        """Of the reads that would be due while busy, one in so many is made."""

    def judge(self, busy_period_s: float) -> None:
        """Slow down, or come back, by the last calls; then it begins to count anew."""
        taken_us = list(self.taken_us)
        if not taken_us:
            return
        self.p50_us, self.p95_us = percentiles(taken_us)
        if len(taken_us) >= WINDOW and self.p95_us > SLOW_US and 2 * self.every * busy_period_s <= SLOWEST_S:
            self.every *= 2
            self.taken_us.clear()
        elif len(taken_us) >= QUICK and self.p95_us < SLOW_US // 2 and self.every > 1:
            self.every //= 2
            self.taken_us.clear()


def percentiles(values: list[int]) -> tuple[int, int]:
    """The 50th and the 95th percentile (nearest rank) of at least one value."""
    ordered = sorted(values)
    return ordered[len(ordered) // 2], ordered[max(-(-len(ordered) * 95 // 100) - 1, 0)]
