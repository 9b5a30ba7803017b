"""Which request a span speaks of: the requests in flight and of late, by id and by the trace they came in.

An engine's id has ours in it: vLLM calls request r `chatcmpl-r`, and the sequences of completions,
embeddings and poolings `cmpl-r-0`, `embd-r-0`, `pooling-r-0` (vLLM 0.32 as observed). A span's trace and
parent are those of the request's `traceparent` header (W3C Trace Context, section 3.2).
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from accounting.events import AnyEvent, RequestFinished, RequestStarted
from accounting.records import Output

if TYPE_CHECKING:  # what it imports is there only where traces are wanted
    from accounting.otlp.spans import RequestSpan

RECENT = 20_000
"""Ended requests that are remembered: spans come in batches, some seconds after the end."""

_PREFIX = re.compile(r"(?:chatcmpl|cmpl|embd|pooling|score|rerank|classify|resp)-")
_NUMBER = re.compile(r"-\d+\Z")
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(?:-.*)?")

_incoming: ContextVar[str | None] = ContextVar("incoming_traceparent", default=None)
"""The `traceparent` of the request that the running task serves."""

K = TypeVar("K")
Trace = tuple[bytes, bytes]
"""Id of the trace, id of the span that a request's spans are children of."""


@dataclass(frozen=True, slots=True)
class _Entry:
    handle: int
    request_id: str
    started_us: int
    trace: Trace | None


class Directory:
    """A listener of the accountant that finds requests. `recent` ended ones are kept."""

    def __init__(self, recent: int = RECENT) -> None:
        self._recent = recent
        self._open: dict[int, _Entry] = {}
        self._ended: OrderedDict[int, _Entry] = OrderedDict()
        self._by_id: dict[str, list[_Entry]] = {}
        self._by_trace: dict[Trace, list[_Entry]] = {}

    def __len__(self) -> int:
        return len(self._open) + len(self._ended)

    def arriving(self, traceparent: str | None) -> None:
        """The running task serves a request with this header; its `started` event is said next."""
        _incoming.set(traceparent)

    def output(self, output: Output) -> None:
        del output

    def event(self, event: AnyEvent) -> None:
        if isinstance(event, RequestStarted) and event.backend is not None:
            self._add(event)
        elif isinstance(event, RequestFinished) and (entry := self._open.pop(event.handle, None)):
            self._ended[entry.handle] = entry
            while len(self._ended) > self._recent:
                self._forget(self._ended.popitem(last=False)[1])

    def find(self, span: RequestSpan) -> int | None:
        """The handle of the span's request, None where it is not known.

        Of several requests of one id the one in the span's trace is meant, else the one that started nearest
        to the span. Of several requests that share a trace and a parent none can be told by these alone.
        """
        trace = (span.trace_id, span.parent_span_id)
        for request_id in _ids(span.request_id):
            if found := self._by_id.get(request_id):
                same = [entry for entry in found if entry.trace == trace]
                return min(same or found, key=lambda entry: abs(entry.started_us - span.start_us)).handle
        traced = self._by_trace.get(trace, ())
        return traced[0].handle if len(traced) == 1 else None

    def _add(self, event: RequestStarted) -> None:
        trace = parse_traceparent(_incoming.get())
        entry = _Entry(event.handle, event.request_id, event.t_us, trace)
        self._open[entry.handle] = entry
        self._by_id.setdefault(entry.request_id, []).append(entry)
        if trace is not None:
            self._by_trace.setdefault(trace, []).append(entry)

    def _forget(self, entry: _Entry) -> None:
        _drop(self._by_id, entry.request_id, entry)
        if entry.trace is not None:
            _drop(self._by_trace, entry.trace, entry)


def _drop(lists: dict[K, list[_Entry]], key: K, entry: _Entry) -> None:
    lists[key].remove(entry)
    if not lists[key]:
        del lists[key]


def _ids(name: str) -> Iterator[str]:
    """Ids of ours that an engine may mean by `name`, the likeliest first."""
    bare = _PREFIX.sub("", name, count=1) if _PREFIX.match(name) else name
    unnumbered = _NUMBER.sub("", bare)
    # Only chats have no number at the end; an id of a client's may well have one of its own.
    yield from (bare, unnumbered) if name.startswith("chatcmpl-") else (unnumbered, bare)
    yield name


def parse_traceparent(header: str | None) -> Trace | None:
    """Trace and parent of a `traceparent` header; None where there is none, or one that is not sound."""
    found = _TRACEPARENT.fullmatch(header.strip()) if header else None
    return None if found is None else (bytes.fromhex(found[1]), bytes.fromhex(found[2]))
