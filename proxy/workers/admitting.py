"""Lets a worker's requests in, by the gate of the main process: one for all, so that limits are exact."""

from __future__ import annotations

from accounting.access.keys import Key
from accounting.events import Usage
from accounting.records import RequestRecord
from proxy.access.gate import Gate
from proxy.access.grant import Grant
from proxy.errors import ApiError
from proxy.wire.head import Header
from proxy.workers.messages import Admitted, Enter, Knock, Known, Left, Opened, Refused
from proxy.workers.refusing import told


class Admitting:
    """What the requests of one worker hold. `lost` once that is gone, after all its ends."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._let_in: dict[int, Grant] = {}  # by the worker's number; not opened
        self._open: dict[int, Grant] = {}  # by the accountant's handle

    def knock(self, knock: Knock) -> Known | Refused:
        try:
            return Known(knock.number, self._gate.known(knock.digest).key)
        except ApiError as error:
            return told(knock.number, None, error)

    def enter(self, enter: Enter) -> Admitted | Refused:
        key: Key | None = None
        try:
            holder = self._gate.known(enter.digest)
            key = holder.key
            grant = self._gate.admit(holder, enter, enter.body_bytes, tunnel=enter.tunnel)
        except ApiError as error:
            return told(enter.number, key, error)
        self._let_in[enter.number] = grant
        return Admitted(enter.number, key, grant.headers())

    def opened(self, opened: Opened) -> None:
        grant = self._open[opened.handle] = self._let_in.pop(opened.number)
        grant.opened(opened.handle)

    def left(self, left: Left) -> None:
        self._let_in.pop(left.number).drop()

    def ended(self, handle: int, record: RequestRecord | None, usage: Usage | None) -> list[Header]:
        """The request is over; what is left of its limits, with what it holds until now."""
        grant = self._open.pop(handle, None)
        if grant is None:
            return []
        limits = grant.headers()
        grant.end(record, usage)
        return limits

    def lost(self) -> None:
        """Nobody speaks for those that are left: they were never opened."""
        for grant in self._let_in.values():
            grant.drop()
        self._let_in.clear()
