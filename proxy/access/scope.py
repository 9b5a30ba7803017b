"""What a key, a project or a team may use, and what it has used: one `Scope` each."""

from __future__ import annotations

from typing import Literal

from accounting.access.keys import NO_LIMITS, Limits
from accounting.access.spent import Periods
from proxy.access.bucket import Bucket

Reason = Literal["requests", "tokens", "parallel", "joules_day", "joules_month"]


class Scope:
    """Energies in microjoules. `reserved_uj` is what requests in flight, or ended and not settled, hold."""

    __slots__ = ("_days", "day_uj", "limits", "month_uj", "name", "parallel", "periods", "requests",
                 "reserved_uj", "tokens")  # fmt: skip

    def __init__(self, name: str, periods: Periods) -> None:
        self.name = name
        self.limits: Limits = NO_LIMITS
        self.requests: Bucket | None = None
        self.tokens: Bucket | None = None
        self.parallel = 0
        self.reserved_uj = 0
        self.periods = periods
        self.day_uj = self.month_uj = 0
        """Settled since the day and the month began."""
        self._days: dict[int, int] = {}

    def use(self, limits: Limits, now_us: int) -> None:
        """Go by these limits from now on. What is used counts on."""
        self.limits = limits
        self.requests = _bucket(self.requests, limits.requests_per_minute, now_us)
        self.tokens = _bucket(self.tokens, limits.tokens_per_minute, now_us)

    def enter(self, periods: Periods) -> None:
        """It is this day now."""
        if periods == self.periods:
            return
        self.periods = periods
        self._days = {day: uj for day, uj in self._days.items() if day >= periods.month}
        self.day_uj = self._days.get(periods.day, 0)
        self.month_uj = sum(self._days.values())

    def spend(self, day: int, uj: int) -> None:
        """So much was settled for a request that finished on this day; below 0: a correction took it away."""
        if day < self.periods.month:
            return
        self._days[day] = self._days.get(day, 0) + uj
        self.month_uj += uj
        if day == self.periods.day:
            self.day_uj += uj

    @property
    def limits_energy(self) -> bool:
        return self.limits.uj_per_day is not None or self.limits.uj_per_month is not None

    def left_uj(self) -> int | None:
        """What can still be reserved; None: there is no limit."""
        limits, lefts = self.limits, []
        if limits.uj_per_day is not None:
            lefts.append(limits.uj_per_day - self.day_uj)
        if limits.uj_per_month is not None:
            lefts.append(limits.uj_per_month - self.month_uj)
        return min(lefts) - self.reserved_uj if lefts else None

    @property
    def days(self) -> dict[int, int]:
        """Settled by day, since the month began."""
        return self._days


def _bucket(now: Bucket | None, limit: int | None, now_us: int) -> Bucket | None:
    if limit is None:
        return None
    if now is None:
        return Bucket(limit, now_us)
    now.use(limit)
    return now
