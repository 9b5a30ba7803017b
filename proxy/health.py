"""Whether a backend may be given requests: what its answers say of it (passive health), as a pure state.

    closed     it gets requests
    open       ejected: after `failures` in a row, or when too large a share of the latest answers failed
    half open  its time out is over: one request at a time is let through as a trial. A good answer closes
               it, a failed one ejects it again for twice as long.

Times are seconds of any monotonic clock, given by the caller. Probing an engine from outside is `probe.py`.
"""

from __future__ import annotations

from collections import deque
from typing import Literal

from proxy.settings_routing import Health

Circuit = Literal["closed", "open", "half_open"]


class Passive:
    """One backend's circuit. `record` every answer; ask `may_take` before giving it a request."""

    __slots__ = ("_settings", "ejections", "in_a_row", "latest", "times", "trial", "until_s")

    def __init__(self, settings: Health) -> None:
        self._settings = settings
        self.ejections = 0
        """Ejections so far, for metrics."""
        self.in_a_row = 0
        self.latest: deque[bool] = deque(maxlen=settings.rate_over)
        self.until_s: float | None = None
        """End of its time out; None while the circuit is closed."""
        self.times = 0
        """Ejections since it was last well: each doubles the time out."""
        self.trial = False
        """Whether a trial request is under way."""

    def use(self, settings: Health) -> None:
        """Go by these settings from now on."""
        self._settings = settings
        self.latest = deque(self.latest, maxlen=settings.rate_over)

    def circuit(self, now_s: float) -> Circuit:
        if self.until_s is None:
            return "closed"
        return "open" if now_s < self.until_s else "half_open"

    def may_take(self, now_s: float) -> bool:
        if self.until_s is None:
            return True
        return now_s >= self.until_s and not self.trial

    def taken(self, now_s: float) -> None:
        """A request was given to it."""
        if self.until_s is not None and now_s >= self.until_s:
            self.trial = True

    def record(self, ok: bool | None, now_s: float) -> bool:
        """An answer ended. None: it says nothing of the engine. Returns whether this ejected the backend."""
        circuit, trial = self.circuit(now_s), self.trial
        self.trial = False
        if ok is None:
            return False
        self.latest.append(ok)
        if ok:
            self.in_a_row = 0
            if circuit == "half_open":
                self._close()
            return False
        self.in_a_row += 1
        if circuit == "open" or (circuit == "closed" and not self._too_many()):
            return False  # a straggler of before the ejection, or within what is allowed
        if circuit == "half_open" and not trial:
            return False  # likewise
        self._open(now_s)
        return True

    def _too_many(self) -> bool:
        settings = self._settings
        if self.in_a_row >= settings.failures:
            return True
        full = len(self.latest) == self.latest.maxlen
        return full and self.latest.count(False) >= settings.failure_rate * len(self.latest)

    def _open(self, now_s: float) -> None:
        settings = self._settings
        out_s = min(settings.ejected_s * 2.0**self.times, settings.ejected_at_most_s)
        self.until_s = now_s + out_s
        self.times = min(self.times + 1, 30)  # beyond it the bound holds anyway
        self.ejections += 1
        self.latest.clear()

    def _close(self) -> None:
        self.until_s = None
        self.times = self.in_a_row = 0
        self.latest.clear()
