"""A request of a worker that was let in: it holds what the main process reserved for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from accounting.events import Usage
from accounting.records import RequestRecord
from proxy.wire.head import Header
from proxy.workers.messages import Left, Opened

if TYPE_CHECKING:
    from proxy.workers.client import RemoteAccountant


class Entered:
    """The `Held` of a worker. The `Grant` is the main process'."""

    __slots__ = ("_accountant", "_number", "_opened", "limits")

    def __init__(self, accountant: RemoteAccountant, number: int, limits: list[Header]) -> None:
        self._accountant, self._number = accountant, number
        self._opened = False
        self.limits = limits
        """What was left, as the main process said last."""

    def opened(self, handle: int) -> None:
        self._opened = True
        self._accountant.opened(Opened(self._number, handle))

    def headers(self) -> list[Header]:
        return self.limits

    def end(self, record: RequestRecord | None, usage: Usage | None) -> None:
        """Of one that was opened the main process hears the end from the accountant."""
        if not self._opened:
            self._accountant.ask(Left(self._number))
