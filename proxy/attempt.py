"""One try of a request on one engine: finds a connection, sends, hears the answer and lets it pass.

The `Caller` of a line to the engine. What it cannot mend itself (a connection that the engine had closed just
before it was used is replaced here) it tells the exchange, which may begin another try elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from proxy.backends import Backend
from proxy.errors import ApiError, BackendFailed, BackendTimeout, BackendUnavailable
from proxy.media.ask import JOB_ROUTE
from proxy.media.passing import ImagePassing, JobPassing
from proxy.passing import DocumentPassing, Passing, PlainPassing, StreamPassing, Tunnel
from proxy.retry import Fault, is_failure, may_repeat
from proxy.sending import begun_request, engine_headers, framed, whole_request
from proxy.settings import Timeouts
from proxy.wire.client import Answer, Broken, Line
from proxy.wire.head import Header
from proxy.wire.pool import ConnectTimeout

if TYPE_CHECKING:
    from proxy.exchange import Exchange

LINES = re.compile(rb"ndjson|jsonl|json-seq|jsonlines")
"""Media types of many documents, which come one by one."""

JUDGED = (400, 422)
"""Answers that judge a body. Any other (429, 401, 404) would be the same for the client's own words."""


class Attempt:
    """Use: `connect`, once. The exchange hears of its end by `answer_over`, `fail`, `move` or `client_stuck`;
    it can `leave` at any time."""

    __slots__ = ("_exchange", "_give_up", "_line", "_paused_s", "_stale", "backend", "passing",
                 "sent_s")  # fmt: skip

    def __init__(self, exchange: Exchange, backend: Backend) -> None:
        self._exchange, self.backend = exchange, backend
        self._line: Line | None = None
        self._give_up: Callable[[], object] | None = None
        self._stale = False
        self._paused_s: float | None = None
        self.passing: Passing | None = None
        self.sent_s = 0.0
        """When it began; the loop's time."""

    def connect(self, *, fresh: bool = False) -> None:
        """Send the request, on a connection that is free if it need not be `fresh`."""
        exchange = self._exchange
        self._line = None
        self.sent_s = exchange.connection.loop.time()
        pool = exchange.relay.pool(self.backend)
        line = None if fresh else pool.take()
        if line is None:
            self._give_up = pool.connect(self._send, self._not_connected)
        else:
            self._send(line)

    def _send(self, line: Line) -> None:
        exchange, request = self._exchange, self._exchange.request
        ask, pool = exchange.ask, exchange.relay.pool(self.backend)
        assert ask is not None
        self._give_up, self._line = None, line
        headers = engine_headers(
            ask,
            pool.authority,
            exchange.span,
            websocket=exchange.upgrades,
            keyed=exchange.holder is not None,
            own=self.backend.authorization,
        )
        target = pool.prefix + ask.target
        if exchange.streams_up:
            parts = begun_request(request, target, headers, exchange.body.take())
            exchange.connection.release()
        else:
            parts = whole_request(ask, target, headers, forced=exchange.forced)
        line.send(self, parts, to_head=ask.method == "HEAD", whole=request.complete)

    def _not_connected(self, error: OSError) -> None:
        self._give_up = None
        backend = self.backend
        if isinstance(error, ConnectTimeout):
            message = f"backend {backend.id} did not accept the connection in time"
            self._exchange.fail(BackendTimeout(message), Fault.REFUSED)
            return
        backend.unreachable()
        message = f"backend {backend.id} cannot be reached: {error.strerror or error}"
        self._exchange.fail(BackendUnavailable(message, retry_after_s=1), Fault.REFUSED)

    # what the client does meanwhile

    def more(self, data: bytes) -> bool:
        """More of the request's body came; whether it is on its way."""
        if self._line is None:
            return False
        self._line.more(framed(self._exchange.request, data))
        return True

    def complete(self) -> None:
        """All of the body came."""
        if self._line is not None:
            self._line.more(b"0\r\n\r\n" if self._exchange.request.chunked else b"", last=True)

    def pause(self) -> None:
        """The client takes no more of the answer for now."""
        if (
            self._line is not None
            and self.passing is not None
            and not isinstance(self.passing, DocumentPassing)
        ):
            self._paused_s = self._exchange.connection.loop.time()
            self._line.pause()

    def resume(self) -> None:
        if self._paused_s is not None:
            self._paused_s = None
            if self._line is not None:
                self._line.resume()

    def leave(self) -> bool:
        """Let go of the engine, which stops work on tokens; whether it had the request."""
        line, self._line = self._line, None
        if line is not None:
            line.abort()
        if self._give_up is not None:
            self._give_up()
            self._give_up = None
        return line is not None

    def look(self, now_s: float, timeouts: Timeouts) -> None:
        """Is it time to give up?"""
        line, name, fail = self._line, self.backend.id, self._exchange.fail
        if line is None:
            return  # connecting has a timeout of its own
        waited_s = now_s - line.last_s
        if not self._exchange.request.complete:  # so has a body that does not come; but this one is not taken
            if line.full and waited_s > timeouts.idle_s:
                fail(
                    BackendTimeout(f"backend {name} took nothing of the request for too long"), Fault.TIMEOUT
                )
        elif self._paused_s is not None:
            if now_s - self._paused_s > timeouts.idle_s:
                self._exchange.client_stuck()
        elif self.passing is None:
            if waited_s > timeouts.first_byte_s:
                fail(BackendTimeout(f"backend {name} did not answer in time"), Fault.TIMEOUT)
        elif waited_s > timeouts.idle_s:
            fail(BackendTimeout(f"backend {name} sent nothing for too long"), Fault.TIMEOUT)

    # the engine's side: Caller

    def answered(self, answer: Answer) -> None:
        exchange, status = self._exchange, answer.status
        if status >= 400:
            other = exchange.other(status)
            if other is not None:
                exchange.move(other, status)
                return
            if exchange.forced and status in JUDGED:
                # Let the engine judge the client's own words: its answer may quote them.
                exchange.forced = False
                exchange.leave()
                self.connect()
                return
        assert self._line is not None
        exchange.account.http_status = status
        self.passing = passing = self._passing_of(answer, self._line)
        self._line.sink = passing.pieces
        if exchange.connection.paused:
            self.pause()

    def _passing_of(self, answer: Answer, line: Line) -> Passing:
        exchange, backend = self._exchange, self.backend
        relay, reply, account = exchange.relay, exchange.reply, exchange.account
        energy, pue = relay.energy, relay.pue
        kind = (answer.header(b"content-type") or b"").lower()
        if kind.startswith(b"text/event-stream"):
            return StreamPassing(
                answer, reply, account, line, backend.fingerprint, energy, pue, forced=exchange.forced
            )
        if not account.kept or b"json" not in kind or LINES.search(kind):
            return PlainPassing(answer, reply, account)
        how = DocumentPassing
        if account.ask.media is not None and answer.status < 300:
            if account.ask.path != JOB_ROUTE:
                return ImagePassing(answer, reply, account, pue, show=energy.in_answers)
            how = JobPassing
        return how(answer, reply, account, backend.id, backend.fingerprint, energy, pue)

    def ended(self, trailers: list[Header]) -> None:
        self._line = None
        exchange, passing = self._exchange, self.passing
        account = exchange.account
        assert passing is not None
        try:
            passing.over()
        except ApiError as error:
            exchange.fail(error, Fault.GARBAGE)
            return
        ok = not is_failure(account.http_status or 200)
        if account.waiting:
            account.when_told(lambda: exchange.answer_over(passing, trailers, ok=ok))
        else:
            exchange.answer_over(passing, trailers, ok=ok)

    def broken(self, how: Broken) -> None:
        line, self._line = self._line, None
        exchange, name = self._exchange, self.backend.id
        if how == "closed":
            ask = exchange.ask
            assert ask is not None
            if (
                line is not None
                and line.used
                and not self._stale
                and not exchange.streams_up
                and may_repeat(ask)
            ):
                # The engine closed an idle connection just as it was used: nobody has read the request.
                self._stale = True
                self.connect(fresh=True)
                return
            message = f"backend {name} closed the connection without an answer"
            exchange.fail(BackendFailed(message), Fault.CLOSED)
        elif how == "garbage":
            exchange.fail(BackendFailed(f"backend {name} answered something that is not HTTP"), Fault.GARBAGE)
        else:
            error = BackendFailed(f"backend {name} broke off in the middle of its answer")
            passing = self.passing
            if passing is not None and passing.broke_off(error):
                exchange.account.when_told(lambda: exchange.answer_over(passing, [], ok=False))
                return
            exchange.fail(error, Fault.GARBAGE)

    def engine_full(self) -> None:
        if self._exchange.streams_up or self._exchange.upgrades:
            self._exchange.connection.hold()

    def engine_ready(self) -> None:
        self._exchange.connection.release()

    def switched(self, answer: Answer, data: bytes) -> None:
        exchange, line = self._exchange, self._line
        if line is None or not exchange.upgrades:
            error = BackendFailed(f"backend {self.backend.id} changed the protocol unasked")
            exchange.fail(error, Fault.GARBAGE)
            return
        exchange.account.http_status = answer.status
        exchange.reply.begun = True
        self.passing = tunnel = Tunnel(answer, exchange.connection, line)
        line.sink = tunnel.pieces
        if data:
            tunnel.pieces(data)
