"""A worker as the main process hears it: its events are written down and heard, its ends answered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from accounting.events import (
    FirstToken,
    JobStarted,
    MediaTold,
    RequestFinished,
    RequestMoved,
    RequestStarted,
    ServiceEnded,
    ServiceStarted,
    Tick,
    Usage,
)
from accounting.records import RequestRecord
from accounting.service import Accountant
from proxy.access.gate import Gate
from proxy.access_log import AccessLog
from proxy.backends import Backends
from proxy.relay import Arriving
from proxy.telemetry import Span, Telemetry
from proxy.wire.head import Header
from proxy.workers.admitting import Admitting
from proxy.workers.messages import (
    Counts,
    Enter,
    FromWorker,
    Go,
    Hello,
    Kept,
    Knock,
    Left,
    Load,
    Loads,
    Opened,
    Plain,
    Traced,
    Up,
)

DIED = "the worker process that served the request died"


@dataclass(frozen=True, slots=True)
class Hearers:
    """Who hears what workers say."""

    accountant: Accountant
    backends: Backends
    telemetry: Telemetry
    traces: Arriving | None
    access_log: AccessLog
    version: str
    gate: Gate | None = None
    """Lets requests in, where keys are asked for."""


class Peer:
    """One worker, from its start to its end. `heard` gets its messages, `lost` is called at its end."""

    def __init__(self, source: int, hearers: Hearers) -> None:
        self.source = source
        self._to = hearers
        self.begun = self.up = self.over = False
        """Its events are waited for; it listens; it is gone."""
        self.silent_ticks = 0
        """How often the main process has looked since it was heard last."""
        self.loads: dict[str, Load] = {}
        self._counts = Counts({}, 0)
        self._open: dict[int, str] = {}
        self._heard_us = 0
        self._admitting = None if hearers.gate is None else Admitting(hearers.gate)

    @property
    def in_flight(self) -> int:
        return len(self._open)

    def heard(self, messages: Sequence[FromWorker]) -> list[msgspec.Struct]:
        """Take a frame, in its order; gives the answer to it."""
        self.silent_ticks = 0
        accountant = self._to.accountant
        answers: list[msgspec.Struct] = []
        ended: list[tuple[RequestFinished, str]] = []
        for message in messages:
            match message:
                case Tick():
                    self._heard_us = max(self._heard_us, message.t_us)
                    accountant.hear(message)
                case RequestStarted():
                    self._open[message.handle] = message.request_id
                    accountant.hear(message)
                case FirstToken() | RequestMoved() | MediaTold():
                    accountant.hear(message)
                case JobStarted():
                    if self._open.pop(message.handle, None) is not None:
                        accountant.hear(message)  # from now on it is no worker's any more
                        self._release(message.handle, None, None)
                case RequestFinished():
                    request_id = self._open.pop(message.handle, None)
                    if request_id is not None:
                        accountant.hear(message)
                        ended.append((message, request_id))
                case _:
                    answers += self._other(message)
        if ended:
            accountant.flush()
            for end, request_id in ended:
                record = accountant.so_far(end.handle, request_id)
                answers.append(Kept(end.handle, record, self._release(end.handle, record, end.usage)))
        return answers

    def _release(self, handle: int, record: RequestRecord | None, usage: Usage | None) -> list[Header]:
        """The request is over; what is left of its limits."""
        return [] if self._admitting is None else self._admitting.ended(handle, record, usage)

    def _other(self, message: FromWorker) -> list[msgspec.Struct]:
        to = self._to
        match message:
            case Enter() | Knock() | Opened() | Left():
                return self._admit(message)
            case Traced():
                to.telemetry.resume(None if message.span is None else Span(*message.span))
                if to.traces is not None:
                    to.traces.arriving(message.traceparent)
            case Plain():
                to.access_log.put(message.line)
            case Loads():
                self.loads = message.loads
            case Counts():
                self._count(message)
            case Hello():
                now_us = self._heard_us = to.accountant.clock.now_us()
                to.accountant.hear(ServiceStarted(t_us=now_us, source=self.source, version=to.version))
                self.begun = True
                return [Go(to.accountant.ledger.next_handle(self.source))]
            case Up():
                self.up = True
        return []

    def _admit(self, message: Enter | Knock | Opened | Left) -> list[msgspec.Struct]:
        admitting = self._admitting
        assert admitting is not None, "a worker asks for keys where nobody does"
        match message:
            case Enter():
                return [admitting.enter(message)]
            case Knock():
                return [admitting.knock(message)]
            case Opened():
                admitting.opened(message)
            case Left():
                admitting.left(message)
        return []

    def _count(self, counts: Counts) -> None:
        """Add what is new to the counters that are shown."""
        to, was = self._to.backends, self._counts
        for backend in (*to.all, *to.leaving):
            now = counts.backends.get(backend.id, (0, 0, 0))
            before = was.backends.get(backend.id, (0, 0, 0))
            if now < before:  # another engine of the same name
                before = (0, 0, 0)
            backend.failed += now[0] - before[0]
            backend.retried += now[1] - before[1]
            backend.passive.ejections += now[2] - before[2]
        to.budget.refused += counts.refused - was.refused
        self._counts = counts

    def speak_for(self) -> None:
        """It says nothing: the books of the others are not to wait for it."""
        if self.begun and not self.over:
            now_us = self._to.accountant.clock.now_us()
            self._to.accountant.hear(Tick(t_us=now_us, source=self.source))

    def lost(self) -> None:
        """It has ended. What it left open is lost, at the moment that it was heard last."""
        if self.over:
            return
        self.over, self.up = True, False
        self.loads = {}
        accountant = self._to.accountant
        for handle in self._open:
            lost = RequestFinished(
                t_us=self._heard_us, handle=handle, status="lost", error=DIED, goes_on=True
            )
            accountant.hear(lost)
        for handle, request_id in self._open.items():
            self._release(handle, accountant.so_far(handle, request_id), None)
        self._open.clear()
        if self._admitting is not None:
            self._admitting.lost()
        if self.begun:
            now_us = accountant.clock.now_us()
            accountant.hear(ServiceEnded(t_us=now_us, source=self.source))
        accountant.flush()
