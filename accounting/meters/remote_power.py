"""A counter made of power readings that hold until the next one, and how a read of it is told.

The curve takes a counter for a staircase and looks for the times of its steps. A sum that we make ourselves
is known at any time, so its reads are told in pairs, the old value until just before the new one: that pins
the step to where it is.
"""

from __future__ import annotations

from accounting.events import CounterReads


class HeldPower:
    """Energy of a power that stays as last told. Milliwatts and microseconds in, millijoules out."""

    def __init__(self) -> None:
        self._at_us: int | None = None
        self._power_mw = 0
        self._energy_nj = 0
        self._told_mj = 0

    @property
    def power_mw(self) -> int | None:
        """The last power told; None before any."""
        return self._power_mw if self._at_us is not None else None

    def tell(self, t_us: int, power_mw: int) -> None:
        """The power is this from `t_us` on. News from before what is already summed count from there."""
        self._sum_until(t_us)
        self._power_mw = power_mw

    def read(self, gpu: str, t_us: int) -> CounterReads | None:
        """The sum up to `t_us`; None before the first power was told."""
        if self._at_us is None:
            return None
        self._sum_until(t_us)
        before_mj, self._told_mj = self._told_mj, self._energy_nj // 1_000_000
        return pinned(gpu, self._at_us, self._at_us, before_mj, self._told_mj)

    def _sum_until(self, t_us: int) -> None:
        if self._at_us is not None:
            self._energy_nj += self._power_mw * max(t_us - self._at_us, 0)  # mW x us = nJ
        self._at_us = max(t_us, self._at_us or t_us)


def pinned(gpu: str, t_lo_us: int, t_hi_us: int, before_mj: int, energy_mj: int) -> CounterReads:
    """A read of a sum that is right for the time of the read, as the curve has to be told of it."""
    return CounterReads(
        gpu=gpu,
        t_lo_us=[t_lo_us - 2, t_lo_us],
        t_hi_us=[t_lo_us - 1, t_hi_us],
        energy_mj=[before_mj, energy_mj],
    )
