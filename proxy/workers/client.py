"""The accountant as a worker's relay knows it: what is said to it goes to the main process.

Starts, first tokens and token counts go together, at every tick. An end goes in the same turn of the loop,
with all that was said before it; the answer's tail waits until the main process says that it has it in its
journal, and gives the record so far. Other streams go on meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from random import getrandbits

import msgspec

from accounting.clock import Clock
from accounting.events import (
    EngineTimes,
    FirstToken,
    JobStarted,
    Media,
    MediaTold,
    RequestFinished,
    RequestMoved,
    RequestStarted,
    Status,
    Tick,
    Usage,
)
from accounting.records import RequestRecord, uid_at
from proxy.access_log import AccessLog, Line
from proxy.account import Account
from proxy.settings_observe import AccessLog as AccessLogSettings
from proxy.settings_observe import Telemetry as Settings
from proxy.telemetry import Span, Telemetry
from proxy.workers.entered import Entered
from proxy.workers.messages import Enter, Kept, Knock, Left, Opened, Plain, Traced

RECORD_S = 1.0
"""A stream's tail waits so long for its record; then it goes on without one, up to the end of the body."""


class RemoteAccountant:
    """Made inside a running loop. `say` sends messages to the main process, in order."""

    def __init__(self, source: int, clock: Clock, say: Callable[[Sequence[msgspec.Struct]], None]) -> None:
        self.clock = clock
        self._source, self._send = source, say
        self._loop = asyncio.get_running_loop()
        self._next_handle = 0
        self._out: list[msgspec.Struct] = []
        self._going = False
        self._counts: dict[int, int] = {}
        self._waiting: dict[int, Account] = {}
        self._due_s: dict[int, float] = {}
        self._traced: Traced | None = None
        self.gone = False
        """The main process is: nothing is kept any more."""

    def begin(self, handle: int) -> None:
        """Handles are given from this one on."""
        self._next_handle = handle

    def start(
        self,
        request_id: str,
        *,
        route: str,
        backend: str | None,
        model: str | None,
        tenant: str | None,
        streamed: bool,
        body_bytes: int,
        sequences: int = 1,
        project: str | None = None,
        user_id: str | None = None,
        api_key: str | None = None,
        media: Media | None = None,
    ) -> int:
        handle = self._next_handle
        self._next_handle += 1
        now_us = self.clock.now_us()
        if self._traced is not None:
            self._out.append(self._traced)
            self._traced = None
        event = RequestStarted(
            t_us=now_us,
            handle=handle,
            uid=f"{uid_at(now_us)}{getrandbits(80):020x}",
            request_id=request_id,
            backend=backend,
            model=model,
            route=route,
            tenant=tenant,
            streamed=streamed,
            body_bytes=body_bytes,
            sequences=sequences,
            project=project,
            user_id=user_id,
            api_key=api_key,
            media=media,
        )
        self._out.append(event)
        return handle

    def move(self, handle: int, backend: str) -> None:
        now_us = self.clock.now_us()
        self._say_tick(now_us)
        self._out.append(RequestMoved(t_us=now_us, handle=handle, backend=backend))

    def media(self, handle: int, media: Media) -> None:
        self._out.append(MediaTold(t_us=self.clock.now_us(), handle=handle, media=media))

    def job(self, handle: int, job: str) -> None:
        self._out.append(JobStarted(t_us=self.clock.now_us(), handle=handle, job=job))
        self._flush_soon()

    def first(self, handle: int) -> None:
        self._out.append(FirstToken(t_us=self.clock.now_us(), handle=handle))

    def tokens(self, handle: int, count: int) -> None:
        self._counts[handle] = self._counts.get(handle, 0) + count

    def finish(
        self,
        handle: int,
        status: Status,
        http_status: int | None,
        *,
        usage: Usage | None = None,
        times: EngineTimes | None = None,
        error: str | None = None,
        goes_on: bool = False,
    ) -> RequestRecord | None:
        """None always: the record comes later."""
        now_us = self.clock.now_us()
        if handle in self._counts:
            self._say_tick(now_us)
        end = RequestFinished(
            t_us=now_us,
            handle=handle,
            status=status,
            http_status=http_status,
            usage=usage,
            times=times,
            error=error,
            goes_on=goes_on,
        )
        self._out.append(end)
        self._flush_soon()
        return None

    def _flush_soon(self) -> None:
        if not self._going:  # what else ends in this turn of the loop goes with it
            self._going = True
            self._loop.call_soon(self.flush)

    def so_far(self, handle: int, request_id: str) -> RequestRecord | None:
        """None always: nothing is known here."""
        return None

    def answers_later(self, handle: int, account: Account) -> bool:
        if self.gone:
            return False
        self._waiting[handle] = account
        self._due_s[handle] = self._loop.time() + RECORD_S
        return True

    # what else the main process is told

    def traced(self, traced: Traced) -> None:
        """Of the request that starts next."""
        self._traced = traced

    def ask(self, message: Knock | Enter | Left) -> None:
        """Whether a request may go; or that one which might is over."""
        self._out.append(message)
        self._flush_soon()

    def opened(self, opened: Opened) -> None:
        """Of the request that was started last."""
        self._out.append(opened)

    def plain(self, line: Plain) -> None:
        """A request without an account has ended."""
        self._out.append(line)

    def tick(self, more: Sequence[msgspec.Struct] = ()) -> None:
        """Hand on what came since the last one, and `more`; let go of tails that have waited for long."""
        self._out += more
        self._say_tick(self.clock.now_us())
        self.flush()
        now_s = self._loop.time()
        while self._due_s:
            handle, due_s = next(iter(self._due_s.items()))
            if due_s > now_s:
                break
            del self._due_s[handle]
            self._waiting[handle].overdue()

    def flush(self) -> None:
        self._going = False
        out, self._out = self._out, []
        if out and not self.gone:
            self._send(out)

    # what it says

    def kept(self, kept: Kept) -> None:
        account = self._waiting.pop(kept.handle, None)
        self._due_s.pop(kept.handle, None)
        if account is not None:
            if isinstance(account.grant, Entered):
                account.grant.limits = kept.limits
            account.told(kept.record)

    def main_gone(self) -> None:
        """Nobody answers any more: nothing waits."""
        self.gone = True
        for account in self._waiting.values():
            account.forget()
        self._waiting.clear()
        self._due_s.clear()

    def _say_tick(self, now_us: int) -> None:
        counts, self._counts = self._counts, {}
        handles, tokens = list(counts), list(counts.values())
        self._out.append(Tick(t_us=now_us, source=self._source, handles=handles, tokens=tokens))


class Arrivals(Telemetry):
    """A worker's part of traces: gives requests their spans, and tells the main process whose they are."""

    def __init__(self, settings: Settings, accountant: RemoteAccountant) -> None:
        super().__init__(settings)
        self._accountant = accountant
        self._span: Span | None = None

    def begin(self, traceparent: str | None) -> Span | None:
        self._span = super().begin(traceparent)
        return self._span

    def arriving(self, traceparent: str | None) -> None:
        """As of `Directory`; follows `begin`."""
        span = self._span
        ours = None if span is None else (span.trace_id, span.span_id, span.parent_id, span.flags)
        self._accountant.traced(Traced(traceparent, ours))


class RemoteLog(AccessLog):
    """A worker's access log: the main process writes it."""

    def __init__(self, settings: AccessLogSettings, accountant: RemoteAccountant) -> None:
        super().__init__(settings)
        self._accountant = accountant

    def put(self, line: Line | RequestRecord) -> None:
        if isinstance(line, Line):
            self._accountant.plain(Plain(line))
