"""One clock for all processes of a machine: monotonic time, anchored once to UTC.

Wall clocks jump; monotonic ones have no date. A `Clock` pairs the two once, at the start of the service, and
is handed to its child processes, so that a counter read and a token seen in different processes compare to
the microsecond (CLOCK_MONOTONIC is common to all processes of a machine).
"""

from __future__ import annotations

import time
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Clock:
    """`offset_us` is added to CLOCK_MONOTONIC (in microseconds) to get UTC microseconds."""

    offset_us: int

    @classmethod
    def anchored_now(cls) -> Clock:
        return cls(time.time_ns() // 1000 - time.monotonic_ns() // 1000)

    def not_before(self, t_us: int) -> Clock:
        """This clock, moved forward where it says less than `t_us`: the wall clock was set back."""
        return Clock(self.offset_us + max(t_us - self.now_us(), 0))

    def now_us(self) -> int:
        return time.monotonic_ns() // 1000 + self.offset_us
