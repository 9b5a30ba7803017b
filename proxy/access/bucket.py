"""A rate per minute as a bucket: it fills steadily, and what is taken has to be in it."""

from __future__ import annotations


class Bucket:
    """Holds at most a minute's worth. It can be below 0: more was used than was expected."""

    __slots__ = ("_at_us", "_level", "limit")

    def __init__(self, limit: int, now_us: int) -> None:
        self.limit = limit
        self._level, self._at_us = float(limit), now_us

    def use(self, limit: int) -> None:
        """Another limit from now on; what has been taken stays taken."""
        self._level += limit - self.limit
        self.limit = limit

    def level(self, now_us: int) -> float:
        """What is in it now."""
        if now_us > self._at_us:
            self._level = min(self._level + (now_us - self._at_us) * self.limit / 60e6, float(self.limit))
            self._at_us = now_us
        return self._level

    def wait_s(self, amount: float, now_us: int) -> float:
        """How long until so much can be taken; 0: now. More than it holds counts as all that it holds."""
        missing = min(amount, self.limit) - self.level(now_us)
        if missing <= 0:
            return 0.0
        return missing * 60 / self.limit if self.limit else 60.0

    def take(self, amount: float) -> None:
        """Below 0: give back."""
        self._level = min(self._level - amount, float(self.limit))

    def full_s(self, now_us: int) -> float:
        """How long until it is full."""
        return (self.limit - self.level(now_us)) * 60 / self.limit if self.limit else 60.0
