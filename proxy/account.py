"""One request's account: what the relay says of it to the accountant, each thing once and in order."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from accounting.clock import Clock
from accounting.events import EngineTimes, Media, Status, Usage
from accounting.records import RequestRecord
from proxy.ask import Ask

if TYPE_CHECKING:
    from proxy.access.holder import Held


class Accounting(Protocol):
    """The accountant as the relay knows it: `accounting.service.Accountant`, or a worker's way to it."""

    @property
    def clock(self) -> Clock: ...

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
    ) -> int: ...

    def move(self, handle: int, backend: str) -> None: ...
    def media(self, handle: int, media: Media) -> None: ...
    def job(self, handle: int, job: str) -> None: ...
    def first(self, handle: int) -> None: ...
    def tokens(self, handle: int, count: int) -> None: ...

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
    ) -> RequestRecord | None: ...

    def so_far(self, handle: int, request_id: str) -> RequestRecord | None: ...

    def answers_later(self, handle: int, account: Account) -> bool:
        """Whether the end of a request is still on its way into the journal: then `account.told` is called
        once it is there, and `account.overdue` before that should it take long."""


def status_of(http_status: int | None) -> Status:
    """How a request with this HTTP status ended, if nothing else is known."""
    status = http_status or 200
    return "ok" if status < 400 else "client_error" if status < 500 else "engine_error"


class Account:
    """Made when a request is understood; `open` when it goes to a backend, `move` when that one failed.

    Requests that do no work on a GPU have no account with the accountant; what is told of them is kept here
    for whoever watches requests end.
    """

    __slots__ = ("_accountant", "_handle", "_when_overdue", "_when_told", "ask", "backend_id", "body_bytes",
                 "closed", "error", "first_s", "goes_on", "grant", "http_status", "last_s", "record",
                 "status", "times", "tokens", "usage", "waiting")  # fmt: skip

    def __init__(self, accountant: Accounting, ask: Ask, body_bytes: int) -> None:
        self._accountant, self.ask, self.body_bytes = accountant, ask, body_bytes
        self._handle: int | None = None
        self.grant: Held | None = None
        """What it holds of its key's limits, where keys are asked for."""
        self.backend_id: str | None = None
        self.closed = False
        self.status: Status = "aborted"
        self.http_status: int | None = None
        self.usage: Usage | None = None
        self.times: EngineTimes | None = None
        self.error: str | None = None
        self.goes_on = False
        """Nobody waits for the answer, and its server works on it all the same."""
        self.tokens = 0
        """Events with content so far, of this try."""
        self.first_s = self.last_s = 0.0
        """When the first and the last of them came; the loop's time."""
        self.record: RequestRecord | None = None
        """As it was at the request's end."""
        self.waiting = False
        """It is closed, but not yet known to be in the journal: the client must not get its last byte."""
        self._when_told: Callable[[], None] | None = None
        self._when_overdue: Callable[[], None] | None = None

    @property
    def request_id(self) -> str:
        return self.ask.request_id

    @property
    def kept(self) -> bool:
        """Whether there is an account with the accountant."""
        return self._handle is not None

    def open(self, backend_id: str | None) -> None:
        """The request goes to this backend now, or is refused (None; then `close` follows)."""
        self.backend_id = backend_id
        self.closed = False
        ask = self.ask
        if not ask.accounted:
            return
        self._handle = self._accountant.start(
            ask.request_id,
            route=ask.path,
            backend=backend_id,
            model=ask.model,
            tenant=ask.tenant,
            streamed=ask.streamed,
            body_bytes=self.body_bytes,
            sequences=ask.sequences,
            project=ask.project,
            user_id=ask.user_id,
            api_key=ask.api_key,
            media=ask.media,
        )
        if self.grant is not None:
            self.grant.opened(self._handle)

    def is_for(self, media: Media) -> None:
        """It is now known what it asks for."""
        if media != self.ask.media:
            self.ask.media = media
            if self._handle is not None and not self.closed:
                self._accountant.media(self._handle, media)

    def hand_over(self, job: str, media: Media) -> None:
        """It goes on as a job of its backend: the end of that ends it, wherever that is heard."""
        self.is_for(media)
        self.closed = True
        if self._handle is not None:
            self._accountant.job(self._handle, job)

    def move(self, backend_id: str) -> None:
        """The try failed, the next goes to another backend. What the failed one cost stays in the record."""
        self.backend_id = backend_id
        self.tokens, self.goes_on = 0, False
        if self._handle is not None:
            self._accountant.move(self._handle, backend_id)

    def count(self, tokens: int, now_s: float) -> None:
        """So many events with content came by now."""
        if self.closed:
            return
        self.last_s = now_s
        handle = self._handle
        if not self.tokens:
            self.first_s = now_s
            if handle is not None:
                self._accountant.first(handle)
        self.tokens += tokens
        if handle is not None:
            self._accountant.tokens(handle, tokens)

    def close(self) -> RequestRecord | None:
        """It is over: said once. The record so far, where one is kept.

        It is in the journal before this returns, or else `waiting`.
        """
        if self.closed:
            return None
        self.closed = True
        if self._handle is None:
            return None
        record = self._accountant.finish(
            self._handle,
            self.status,
            self.http_status,
            usage=self.usage,
            times=self.times,
            error=self.error,
            goes_on=self.goes_on,
        )
        # Where nothing is measured there is nothing to wait for: the record is settled at once.
        self.record = record
        if record is None:
            self.waiting = self._accountant.answers_later(self._handle, self)
            if not self.waiting:
                self.record = self._accountant.so_far(self._handle, self.ask.request_id)
        return self.record

    def when_told(self, call: Callable[[], None]) -> None:
        """Called once the account is no longer `waiting`: at once where it is not. The last one counts."""
        if self.waiting:
            self._when_told = call
        else:
            call()

    def when_overdue(self, call: Callable[[], None]) -> None:
        """Called at most once, should the account be `waiting` for long, or when it no longer is."""
        self._when_overdue = call

    def overdue(self) -> None:
        """The record takes its time: whoever waits for it should do without."""
        call, self._when_overdue = self._when_overdue, None
        if call is not None:
            call()

    def told(self, record: RequestRecord | None) -> None:
        """The end is in the journal, and this is the record so far."""
        self.record, self.waiting = record, False
        self.overdue()
        call, self._when_told = self._when_told, None
        if call is not None:
            call()

    def forget(self) -> None:
        """Nobody waits any more."""
        if self.grant is not None and self._handle is not None:
            self.record = self._accountant.so_far(self._handle, self.ask.request_id)
        self.waiting, self._when_told, self._when_overdue = False, None, None
