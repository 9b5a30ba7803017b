"""The true energy of every simulated request, kept so that an attribution can be checked against it.

All energies are integer microjoules; requests + idle = what the engine wrote to the curve, exactly. Times are
CLOCK_MONOTONIC microseconds.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import asdict, dataclass, field
from itertools import count
from typing import Any, Generic, Protocol, TypeVar

KEEP = 100_000
"""Ended requests that are remembered; the oldest are folded into `forgotten_uj`."""

_serial = count()


def new_serial() -> int:
    """Accounts are told apart by it: request ids need not be unique."""
    return next(_serial)


@dataclass(eq=False, slots=True)
class Account:
    """One HTTP request: its sequences (n, several prompts) together. Counts of tokens, energies in uJ.

    `scheduled_us` and `first_token_us` are None before they happen. `state` is open, ok or aborted.
    """

    request_id: str
    arrived_us: int
    scheduled_us: int | None = None
    first_token_us: int | None = None
    finished_us: int | None = None
    state: str = "open"
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    preemptions: int = 0
    prefill_uj: int = 0
    decode_uj: int = 0
    serial: int = field(default_factory=new_serial)

    @property
    def energy_uj(self) -> int:
        return self.prefill_uj + self.decode_uj

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "energy_uj": self.energy_uj}


class AnyAccount(Protocol):
    """What every account of a request has."""

    request_id: str
    state: str

    @property
    def serial(self) -> int: ...

    @property
    def energy_uj(self) -> int: ...


A = TypeVar("A", bound=AnyAccount)


class Truth(Generic[A]):
    """Accounts of requests, and the idle energy beside them."""

    def __init__(self) -> None:
        self._accounts: OrderedDict[int, A] = OrderedDict()
        self.idle_uj = 0
        self.forgotten_uj = 0
        self.steps = 0

    def open(self, account: A) -> None:
        self._accounts[account.serial] = account
        if len(self._accounts) > KEEP:
            oldest = next(iter(self._accounts.values()))
            if oldest.state != "open":
                del self._accounts[oldest.serial]
                self.forgotten_uj += oldest.energy_uj

    @property
    def requests_uj(self) -> int:
        """Energy of all requests so far, the forgotten ones included."""
        return self.forgotten_uj + sum(account.energy_uj for account in self._accounts.values())

    def find(self, request_id: str | None = None) -> list[A]:
        """Accounts in the order of arrival, all or those with this id (ids need not be unique)."""
        return [a for a in self._accounts.values() if request_id is None or a.request_id == request_id]


def split(total_uj: int, parts: list[float]) -> list[int]:
    """`total_uj` in proportion to `parts`, as integers that sum to it; the first takes the rounding."""
    whole = sum(parts)
    shares = [int(total_uj * (part / whole)) for part in parts]
    shares[0] += total_uj - sum(shares)
    return shares
