"""Where in its bracket a counter's step lies: it steps to a beat, and the beat is better known than a step.

A step is seen between two reads, some 30 ms apart; a counter steps each 100 ms within a few milliseconds
(ml.energy; Zeus). So a line `t = start + n * period` is fitted to the last steps, each kept within its
bracket, and the newest is put where the line says, as far as its bracket allows. On the simulated counter
this takes the mean error of a 50 ms request from 5.5 to 0.9 % (benchmarks/meters.py). A counter that keeps no
beat loses nothing: a step never leaves its bracket, and one that the line misses by far lies in the middle.

Whole numbers throughout: the same reads give the same microseconds on every machine.
"""

from __future__ import annotations

import msgspec

STEPS = 64
LEAST_STEPS = 8
WIDEST_PART = 2
"""A beat is not begun with a step less than so many brackets after the one before: integrated power moves
with every read, and has none."""

MAX_GAP_US = 30_000_000
"""After a longer silence it is not known any more how many steps there were."""


class Grid(msgspec.Struct):
    """The last steps: their numbers, their brackets [lo, hi], and where in them they are thought to be."""

    numbers: list[int] = []
    lo_us: list[int] = []
    hi_us: list[int] = []
    at_us: list[int] = []
    period_us: int = 0
    last_us: int = 0
    """The middle of the last bracket, whether its step is among those above or not."""

    def place(self, lo_us: int, hi_us: int, usual_us: int) -> int:
        """When the step was that was seen in [lo, hi]. `usual_us` is the period where none is known."""
        middle_us = (lo_us + hi_us) // 2
        passed_us, self.last_us = middle_us - self.last_us, middle_us
        if 0 < len(self.at_us) < LEAST_STEPS and passed_us < WIDEST_PART * (hi_us - lo_us):
            return middle_us
        number = 0
        if self.at_us:
            since_us = middle_us - self.at_us[-1]
            if since_us > MAX_GAP_US:
                self.clear()
            else:
                number = self.numbers[-1] + max(_nearest(since_us, self.period_us or usual_us), 1)
        at_us = middle_us
        if number and 2 * (hi_us - lo_us) > self.period_us > 0:
            # So wide a bracket has no middle worth the name: it can only say no to the line.
            at_us = min(max(self.at_us[-1] + (number - self.numbers[-1]) * self.period_us, lo_us), hi_us)
        self.numbers.append(number)
        self.lo_us.append(lo_us)
        self.hi_us.append(hi_us)
        self.at_us.append(at_us)
        for column in (self.numbers, self.lo_us, self.hi_us, self.at_us):
            del column[:-STEPS]
        return self._fit(middle_us) if len(self.at_us) >= LEAST_STEPS else middle_us

    def clear(self) -> None:
        """Forget all steps: what comes has nothing to do with them."""
        self.numbers, self.lo_us, self.hi_us, self.at_us, self.period_us = [], [], [], [], 0

    def _fit(self, middle_us: int) -> int:
        """A line by least squares, every step moved to it within its bracket; the newest one's place."""
        n0, t0_us, count = self.numbers[0], self.at_us[0], len(self.at_us)
        steps = [number - n0 for number in self.numbers]
        times = [t - t0_us for t in self.at_us]
        sum_n, sum_t = sum(steps), sum(times)
        spread = count * sum(n * n for n in steps) - sum_n * sum_n
        slope = count * sum(n * t for n, t in zip(steps, times, strict=True)) - sum_n * sum_t
        self.period_us = slope // spread
        # start = (sum_t - slope / spread * sum_n) / count, over one denominator
        base, below = sum_t * spread - slope * sum_n, spread * count
        line_us = [t0_us + (base + slope * count * n) // below for n in steps]
        brackets = zip(line_us, self.lo_us, self.hi_us, strict=True)
        self.at_us = [min(max(t, lo), hi) for t, lo, hi in brackets]
        off_us = abs(line_us[-1] - self.at_us[-1])
        if 2 * off_us > self.hi_us[-1] - self.lo_us[-1]:
            self.at_us[-1] = middle_us
        return self.at_us[-1]


def _nearest(value: int, unit: int) -> int:
    return (2 * value + unit) // (2 * unit)
