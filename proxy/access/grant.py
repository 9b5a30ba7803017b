"""A request that was let in: what it holds of its scopes' limits until it has ended and is settled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from accounting.events import Usage
from accounting.records import RequestRecord
from proxy.access.expected import Size
from proxy.access.rate_headers import rate_headers
from proxy.access.scope import Scope
from proxy.wire.head import Header

if TYPE_CHECKING:
    from proxy.access.gate import Gate


class Grant:
    """`end` when the answer is over, `settle` when its energy is final; in either order, each once.

    `held_uj` is reserved for it: what it is expected to cost; after its end what it cost by the provisional
    figure and that figure's uncertainty, if that is more. Less may well be wrong: while the counter has not
    caught up it comes from the learnt work, and that knows little of a load which has just changed.
    """

    __slots__ = ("_ended", "_gate", "_settled", "held_uj", "scopes", "size", "tokens")

    def __init__(
        self, gate: Gate, scopes: Sequence[Scope], size: Size | None, tokens: int, held_uj: int
    ) -> None:
        """`size` is None where no account is kept of the request."""
        self._gate, self.scopes, self.size, self.tokens = gate, scopes, size, tokens
        self.held_uj = held_uj
        self._ended = self._settled = False
        for scope in scopes:
            scope.parallel += 1
            scope.reserved_uj += held_uj
            if scope.requests is not None:
                scope.requests.take(1)
            if scope.tokens is not None:
                scope.tokens.take(tokens)

    def opened(self, handle: int) -> None:
        """The accountant knows the request by this handle."""
        self._gate.follow(handle, self)

    def headers(self) -> list[Header]:
        """What is left, for the answer."""
        return rate_headers(self._gate, self.scopes)

    def end(self, record: RequestRecord | None, usage: Usage | None) -> None:
        """The answer is over. `record` is as it is now; None where there is none, or none yet."""
        if self._ended:
            return
        self._ended = True
        unused = self.tokens - self._used(record, usage)
        for scope in self.scopes:
            scope.parallel -= 1
            if scope.tokens is not None and unused:
                scope.tokens.take(-unused)
        if self.size is None or (record is not None and record.status == "rejected"):
            self._hold(0)
        elif record is not None and record.energy_uj is not None:
            self._hold(max(self.held_uj, record.energy_uj + (record.uncertainty_uj or 0)))

    def drop(self) -> None:
        """Nothing came of the request: it was never opened."""
        self.end(None, None)
        self._hold(0)

    def _used(self, record: RequestRecord | None, usage: Usage | None) -> int:
        """Tokens, as far as anybody counted them; what was reserved where nobody did."""
        if record is None or record.status in ("rejected", "client_error"):
            return 0
        completion = record.completion_tokens
        if usage is None and completion is None:
            return self.tokens if record.status == "ok" else 0
        prompt = usage.prompt_tokens if usage is not None else None
        if prompt is None and self.size is not None:
            prompt = self.size.prompt_tokens
        return (prompt or 0) + (completion or 0)

    def settle(self, record: RequestRecord, day: int) -> None:
        """Its energy is final; `day` is when it finished. What was not measured is not charged."""
        if self._settled:
            return
        for scope in self.scopes:
            scope.spend(day, record.energy_uj or 0)
        self._hold(0)
        self._settled = True

    def _hold(self, uj: int) -> None:
        if self._settled:
            return
        for scope in self.scopes:
            scope.reserved_uj += uj - self.held_uj
        self.held_uj = uj
