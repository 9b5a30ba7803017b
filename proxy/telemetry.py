"""A span per request for OpenTelemetry, with what it used and what it cost in joules.

Where a request's span is to be exported, its engine gets a `traceparent` with our span as the parent, so that
the engine's own spans hang under it; where it is not, the client's header passes as it came. A request that
came with a traceparent is exported if that is sampled (W3C Trace Context, section 3.2.2.5); one without
begins a trace, by `sample`.

Nothing of this is on the way of a byte: `begin` runs once per request, before it is sent. The rest is heard
from the accountant: a span waits after its end until its joules are final, at most `wait_s`, and then says
which they are (`joulegate.energy.state`). Sending is the work of `span_export.py`.
"""

from __future__ import annotations

import random
import re
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from accounting.events import AnyEvent, RequestFinished, RequestMoved, RequestStarted
from accounting.records import Output, RequestRecord
from proxy.settings_observe import Telemetry as Settings

_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
SAMPLED = 0x01

MAX_WAITING = 20_000
"""Spans held for their joules or for the collector; beyond it the oldest are dropped and counted."""


@dataclass(slots=True)
class Span:
    """Our span of a request: its place in a trace, and what was heard of the request since."""

    trace_id: str
    span_id: str
    parent_id: str
    flags: int
    uid: str = ""
    handle: int = -1
    tries: int = 1
    ended_s: float | None = None
    record: RequestRecord | None = None

    @property
    def traceparent(self) -> str:
        """The header for the engine."""
        return f"00-{self.trace_id}-{self.span_id}-{self.flags:02x}"


def parse(traceparent: str | None) -> tuple[str, str, int] | None:
    """Trace id, parent id and flags of the header; None where there is none, or one that is not sound."""
    found = None if traceparent is None else _TRACEPARENT.fullmatch(traceparent.strip())
    if found is None or found[1] == "0" * 32 or found[2] == "0" * 16:
        return None
    if traceparent is not None and traceparent.startswith("00") and found[4] is not None:
        return None  # version 00 ends there
    return found[1], found[2], int(found[3], 16)


class Telemetry:
    """A listener of the accountant. `provisional` gives the record of a handle that is not settled yet."""

    def __init__(
        self,
        settings: Settings,
        provisional: Callable[[int], RequestRecord | None] = lambda _: None,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings, self.provisional, self._now_s = settings, provisional, now_s
        self._open: dict[int, Span] = {}
        self._by_uid: dict[str, Span] = {}
        self._ended: OrderedDict[str, Span] = OrderedDict()
        self._ready: list[Span] = []
        self._beginning: Span | None = None
        self.sent = self.dropped = 0

    def use(self, settings: Settings) -> None:
        """Go by these settings from now on."""
        self._settings = settings

    def begin(self, traceparent: str | None) -> Span | None:
        """A request arrives with this header (None: without). Gives the span to send on, if one is exported.

        To be followed by `accountant.start` of the same request, with nothing of another in between.
        """
        self._beginning = None
        if not self._settings.enabled:
            return None
        parent = parse(traceparent)
        if parent is None:
            share = self._settings.sample
            if share < 1.0 and random.random() >= share:
                return None
            self._beginning = Span(_hex(128), _hex(64), "", SAMPLED)
        elif parent[2] & SAMPLED:
            self._beginning = Span(parent[0], _hex(64), parent[1], parent[2])
        return self._beginning

    def resume(self, span: Span | None) -> None:
        """The same for a request that another process has begun, with the span that it gave."""
        self._beginning = span

    def event(self, event: AnyEvent) -> None:
        if isinstance(event, RequestStarted):
            span, self._beginning = self._beginning, None
            if span is not None:
                span.uid, span.handle = event.uid, event.handle
                self._open[event.handle] = self._by_uid[event.uid] = span
        elif isinstance(event, RequestMoved):
            if (moved := self._open.get(event.handle)) is not None:
                moved.tries += 1
        elif isinstance(event, RequestFinished):
            span = self._open.pop(event.handle, None)
            if span is not None:
                span.ended_s = self._now_s()
                if span.record is None:
                    self._ended[span.uid] = span
                    self._bound()

    def output(self, output: Output) -> None:
        if isinstance(output, RequestRecord) and (span := self._by_uid.pop(output.uid, None)) is not None:
            span.record = output
            self._ended.pop(span.uid, None)
            self._ready.append(span)

    def take(self, *, all_of_them: bool = False) -> list[Span]:
        """The spans that are to be sent now: settled, or done with waiting. Each has its record so far."""
        before_s = self._now_s() - self._settings.wait_s
        while self._ended:
            span = next(iter(self._ended.values()))
            if not all_of_them and span.ended_s is not None and span.ended_s > before_s:
                break
            del self._ended[span.uid]
            self._by_uid.pop(span.uid, None)
            span.record = self.provisional(span.handle)
            if span.record is None:
                self.dropped += 1  # the ledger knows nothing of it any more, and so do we
            else:
                self._ready.append(span)
        ready, self._ready = self._ready, []
        return ready

    def give_back(self, spans: list[Span]) -> None:
        """The collector did not take them: they are sent again, as far as there is room."""
        self._ready[:0] = spans
        self._bound()

    def _bound(self) -> None:
        over = len(self._ended) + len(self._ready) - MAX_WAITING
        if over > 0 and self._ready:
            self.dropped += min(over, len(self._ready))
            del self._ready[:over]
        while len(self._ended) > MAX_WAITING:
            uid, _ = self._ended.popitem(last=False)
            self._by_uid.pop(uid, None)
            self.dropped += 1


def _hex(bits: int) -> str:
    """A random id, never all zeros."""
    return f"{random.getrandbits(bits) or 1:0{bits // 4}x}"
