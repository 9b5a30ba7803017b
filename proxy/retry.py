"""Whether a failed try may be made again on another replica: pure rules, and a budget for all requests.

A retry needs another replica, as asking the same one again at once helps nobody. It is made only while the
client has no byte of an answer, and only where the failed try cannot have done the work, or the engine itself
said that it did not. A timeout is never tried again: the engine may be computing still, and a second try
would double a load that is already too high.
"""

from __future__ import annotations

from enum import Enum

from proxy.ask import Ask
from proxy.settings_routing import Retry


class Fault(Enum):
    """How a try failed without an answer."""

    REFUSED = "refused"
    """No connection: nobody listens, no route."""
    CLOSED = "closed"
    """The connection was closed or reset before a byte of an answer."""
    TIMEOUT = "timeout"
    """It did not answer in time."""
    GARBAGE = "garbage"
    """What came is not HTTP."""


SAFE_FAULTS = frozenset({Fault.REFUSED, Fault.CLOSED})
SAFE_STATUSES = frozenset({429, 502, 503, 504})
"""Full, starting, shutting down, or a gateway without its engine. 429 is this replica's limit, not that of
another. A 500 is not among them: the same request may well fail again, and take the next engine down."""


JOBS = ("/v1/videos", "/v1/images", "/v1/files", "/v1/batches", "/v1/fine_tuning")
"""Routes that may leave something behind: a request to them is not sent again once an engine may have it."""


def is_failure(failure: Fault | int) -> bool:
    """Whether it speaks against the engine's health. A 429 and a refused request do not: it is well."""
    return isinstance(failure, Fault) or failure >= 500


def may_repeat(ask: Ask) -> bool:
    """Whether doing it twice harms nobody."""
    return ask.method in ("GET", "HEAD", "OPTIONS") or (
        ask.method == "POST" and not ask.path.startswith(JOBS)
    )


def may_retry(failure: Fault | int, *, tries: int, answered: bool, retry: Retry) -> bool:
    """Whether the rules allow another try after `tries` of them; `failure` is a fault or an HTTP status.

    `answered`: the client already has a byte of an answer.
    """
    if answered or tries >= retry.tries:
        return False
    return failure in SAFE_FAULTS or failure in SAFE_STATUSES


class Budget:
    """Retries as a share of requests, so that they cannot double the load of engines that are down.

    Each request earns `retry.ratio` of a retry, up to `retry.burst` of them, which is also the beginning.
    """

    __slots__ = ("_retry", "left", "refused")

    def __init__(self, retry: Retry) -> None:
        self._retry = retry
        self.left = float(retry.burst)
        self.refused = 0
        """Retries that were not made because nothing was left."""

    def use(self, retry: Retry) -> None:
        """Go by these settings from now on."""
        self._retry = retry
        self.left = min(self.left, float(retry.burst))

    def earn(self) -> None:
        self.left = min(self.left + self._retry.ratio, float(self._retry.burst))

    def spend(self) -> bool:
        if self.left < 1.0:
            self.refused += 1
            return False
        self.left -= 1.0
        return True
