"""One request under way: from the client's connection to an engine, and the answer back.

Everything happens in the callbacks of the two sockets; there is no task per request. The request's body is
held whole where it is JSON, as it has to be read; other bodies (forms with sound or images, compressed ones)
go on as they come once they are larger than `HELD_BYTES`. Whatever happens, the client gets an end and the
account is closed, once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING

from proxy.account import Account
from proxy.ask import Ask, is_json, understand
from proxy.backends import Backend
from proxy.errors import (
    ApiError,
    BackendFailed,
    BackendTimeout,
    BackendUnavailable,
    BodyTooLarge,
)
from proxy.hints import Hints
from proxy.media.ask import JOB_ROUTE, of_fields
from proxy.media.passing import ImagePassing, JobPassing
from proxy.passing import DocumentPassing, Passing, PlainPassing, StreamPassing, Tunnel
from proxy.refusal import write_error
from proxy.retry import Fault, is_failure
from proxy.sending import HELD_BYTES, begun_request, engine_headers, framed, whole_request
from proxy.telemetry import Span
from proxy.wire.body import Body
from proxy.wire.client import Answer, Broken, Line
from proxy.wire.head import Header, value_of
from proxy.wire.pool import ConnectTimeout
from proxy.wire.reply import Reply
from proxy.wire.server import Connection
from proxy.wire.turn import CONTINUE, Request

if TYPE_CHECKING:
    from proxy.access.gate import Holder
    from proxy.relay import Relay

log = logging.getLogger(__name__)

GONE_STATUS = 499
"""Status in the record of a request whose client went away before the answer began (nginx's custom)."""

WAITING_BYTES = 262_144
"""Of a body that goes on so much waits for the engine; more waits in the client's socket."""

JOBS = ("/v1/videos", "/v1/images", "/v1/files", "/v1/batches", "/v1/fine_tuning")
"""Routes that may leave something behind: a request to them is not sent again once an engine may have it."""


class Exchange:
    """A `Turn` on the client's connection and the `Caller` of lines to engines."""

    __slots__ = ("_account", "_ask", "_backend", "_began_s", "_begun", "_body", "_body_bytes",
                 "_connection", "_dispatched", "_forced", "_give_up", "_hints", "_holder", "_line",
                 "_over", "_passing", "_paused_s", "_relay", "_reply", "_request", "_sent_s", "_span",
                 "_stale", "_streams_up", "_tried", "_upgrades")  # fmt: skip

    def __init__(self, relay: Relay, connection: Connection, request: Request) -> None:
        self._relay, self._connection, self._request = relay, connection, request
        self._body, self._body_bytes = Body(), 0
        self._begun = self._dispatched = self._over = False
        self._streams_up = False
        """The body goes on as it comes."""
        self._reply = Reply(connection, request)
        self._line: Line | None = None
        self._give_up: Callable[[], object] | None = None
        self._passing: Passing | None = None
        self._forced = self._stale = self._upgrades = False
        self._paused_s: float | None = None
        self._began_s = monotonic()
        self._sent_s = connection.loop.time()
        self._ask: Ask | None = None
        self._tried: list[Backend] = []
        self._backend: Backend
        self._account: Account
        self._hints: Hints
        self._span: Span | None = None
        self._holder: Holder | None = None
        """Whose key it came with, where keys are asked for."""

    # the client's side: Turn

    def begin(self) -> None:
        self._begun = True
        self._began_s = monotonic()  # the loop's time stands still within a round
        request, gate = self._request, self._relay.gate
        if gate is not None:
            try:
                self._holder = gate.know(request.headers)
            except ApiError as refusal:  # before any of the body is taken
                self._turn_away(refusal)
                return
        if self._too_large(request.length or self._body_bytes):
            return
        if request.complete:
            self._dispatch()
        elif request.length or request.chunked:
            if request.expects_continue:
                self._connection.transport.write(CONTINUE)
            self._go_on()

    def data(self, data: bytes) -> None:
        if self._over:
            return
        self._body_bytes += len(data)
        if self._begun and self._too_large(self._body_bytes):
            return
        if self._dispatched and self._ask is not None and self._ask.form is not None:
            self._ask.form.feed(data)
        if self._dispatched and self._line is not None:
            self._line.more(framed(self._request, data))
            return
        self._body.add(data)
        if self._dispatched:
            if len(self._body) > WAITING_BYTES:
                self._connection.hold()
        else:
            self._go_on()

    def complete(self) -> None:
        if self._over or not self._begun:
            return
        if not self._dispatched:
            self._dispatch()
            return
        if self._ask is not None and self._ask.form is not None:
            self._account.is_for(of_fields(self._ask.path, self._ask.form.fields))
        if self._line is not None:
            self._line.more(b"0\r\n\r\n" if self._request.chunked else b"", last=True)

    def gone(self) -> None:
        if self._over:
            return
        self._leave()
        if self._dispatched:
            self._break_off("the client closed the connection")

    def pause(self) -> None:
        if (
            self._line is not None
            and self._passing is not None
            and not isinstance(self._passing, DocumentPassing)
        ):
            self._paused_s = self._connection.loop.time()
            self._line.pause()

    def resume(self) -> None:
        if self._paused_s is not None:
            self._paused_s = None
            if self._line is not None:
                self._line.resume()

    def look(self, now_s: float) -> None:
        timeouts, line = self._relay.timeouts, self._line
        if self._over or not self._dispatched:
            return
        if timeouts.total_s is not None and now_s - self._began_s > timeouts.total_s:
            self._fail(BackendTimeout(f"the request took longer than {timeouts.total_s:g} s"), Fault.TIMEOUT)
        elif line is None:
            return  # connecting has a timeout of its own
        elif not self._request.complete:  # and so has a body that does not come; but this one is not taken
            if line.full and now_s - line.last_s > timeouts.idle_s:
                message = f"backend {self._backend.id} took nothing of the request for too long"
                self._fail(BackendTimeout(message), Fault.TIMEOUT)
        elif self._paused_s is not None:
            if now_s - self._paused_s > timeouts.idle_s:
                self._leave()
                self._break_off("the client took nothing of the answer for too long")
                self._connection.abort()
        elif self._passing is None:
            if now_s - line.last_s > timeouts.first_byte_s:
                self._fail(
                    BackendTimeout(f"backend {self._backend.id} did not answer in time"), Fault.TIMEOUT
                )
        elif now_s - line.last_s > timeouts.idle_s:
            self._fail(BackendTimeout(f"backend {self._backend.id} sent nothing for too long"), Fault.TIMEOUT)

    def stop(self, why: str) -> None:
        if self._over:
            return
        self._leave()
        if self._dispatched:
            self._break_off(why)

    def fail(self, error: ApiError) -> None:
        """No answer can be given any more: say so, as far as that is possible."""
        if self._dispatched and not self._over:
            self._fail(error, None)

    # choosing and sending

    def _too_large(self, size: int) -> bool:
        if size <= self._relay.max_body_bytes:
            return False
        error = BodyTooLarge(f"the request body is larger than {self._relay.max_body_bytes} bytes")
        if self._dispatched:
            self._fail(error, None)
        else:
            self._understand()
            self._reject(error)
        return True

    def _go_on(self) -> None:
        """Send a large body that is not read here on, if it is time for that."""
        if not self._begun or self._dispatched or len(self._body) < HELD_BYTES:
            return
        if not is_json(self._request.headers):
            self._streams_up = True
            self._dispatch()

    def _understand(self) -> Ask:
        request = self._request
        ask = understand(request.method, request.path, request.query, request.headers, self._body.held)
        size = self._body_bytes if request.length is None else request.length
        self._ask, self._account = ask, Account(self._relay.accountant, ask, size)
        self._forced = ask.forced_at is not None
        self._upgrades = (
            request.upgrade and (value_of(ask.headers, b"upgrade") or b"").lower() == b"websocket"
        )
        if ask.body_user is not None:
            ask.user_id = self._relay.user_of(ask.body_user)
        if self._holder is not None:
            self._holder.mark(ask)
        return ask

    def _dispatch(self) -> None:
        ask = self._understand()
        relay = self._relay
        gate, holder = relay.gate, self._holder
        try:
            if gate is not None and holder is not None:
                size = self._account.body_bytes
                self._account.grant = gate.admit(holder, ask, size, tunnel=self._upgrades)
        except ApiError as refusal:
            self._turn_away(refusal)
            return
        try:
            hints = relay.backends.hints(ask.headers, ask.body, length=self._account.body_bytes)
            backend = relay.backends.choose(ask.model, session=hints.session, prefix=hints.prefix)
        except ApiError as refusal:
            self._reject(refusal)
            return
        self._dispatched, self._hints = True, hints
        self._span = relay.arriving(ask) if ask.accounted else None
        self._account.open(backend.id)
        self._try(backend)

    def _try(self, backend: Backend) -> None:
        self._backend = backend
        self._tried.append(backend)
        backend.begin(self._hints.work)
        self._connect(fresh=False)

    def _connect(self, *, fresh: bool) -> None:
        self._line = None
        self._sent_s = self._connection.loop.time()
        pool = self._relay.pool(self._backend)
        line = None if fresh else pool.take()
        if line is None:
            self._give_up = pool.connect(self._send, self._not_connected)
        else:
            self._send(line)

    def _send(self, line: Line) -> None:
        ask, request, pool = self._ask, self._request, self._relay.pool(self._backend)
        assert ask is not None
        self._give_up, self._line = None, line
        headers = engine_headers(
            ask,
            pool.authority,
            self._span,
            websocket=self._upgrades,
            keyed=self._holder is not None,
            own=self._backend.authorization,
        )
        target = pool.prefix + ask.target
        if self._streams_up:
            parts = begun_request(request, target, headers, self._body.take())
            self._connection.release()
        else:
            parts = whole_request(ask, target, headers, forced=self._forced)
        line.send(self, parts, to_head=ask.method == "HEAD", whole=request.complete)

    def _not_connected(self, error: OSError) -> None:
        self._give_up = None
        backend = self._backend
        if isinstance(error, ConnectTimeout):
            self._fail(
                BackendTimeout(f"backend {backend.id} did not accept the connection in time"), Fault.REFUSED
            )
            return
        backend.unreachable()
        message = f"backend {backend.id} cannot be reached: {error.strerror or error}"
        self._fail(BackendUnavailable(message, retry_after_s=1), Fault.REFUSED)

    # the engine's side: Caller

    def answered(self, answer: Answer) -> None:
        status = answer.status
        if status >= 400:
            other = self._other(status)
            if other is not None:
                self._move(other, status)
                return
            if self._forced and status < 500:
                # Let the engine judge the client's own words: its answer may quote them.
                self._forced = False
                self._leave()
                self._connect(fresh=False)
                return
        line, account, relay = self._line, self._account, self._relay
        energy, pue = relay.energy, relay.pue
        assert line is not None
        account.http_status = status
        kind = answer.header(b"content-type") or b""
        fingerprint = self._backend.fingerprint
        passing: Passing
        if kind.startswith(b"text/event-stream"):
            passing = StreamPassing(
                answer, self._reply, account, line, fingerprint, energy, pue, forced=self._forced
            )
        elif account.kept and b"json" in kind:
            name = self._backend.id
            how = DocumentPassing
            if account.ask.media is not None and status < 300:
                if account.ask.path != JOB_ROUTE:
                    self._pass(ImagePassing(answer, self._reply, account, pue, show=energy.in_answers))
                    return
                how = JobPassing
            passing = how(answer, self._reply, account, name, fingerprint, energy, pue)
        else:
            passing = PlainPassing(answer, self._reply, account)
        self._pass(passing)

    def _pass(self, passing: Passing) -> None:
        assert self._line is not None
        self._passing = passing
        self._line.sink = passing.pieces
        if self._connection.paused:
            self.pause()

    def ended(self, trailers: list[Header]) -> None:
        self._line = None
        passing, account = self._passing, self._account
        assert passing is not None
        try:
            passing.over()
        except ApiError as error:
            self._fail(error, Fault.GARBAGE)
            return
        ok = not is_failure(account.http_status or 200)
        if account.waiting:
            account.when_told(lambda: self._answer_over(passing, trailers, ok=ok))
        else:
            self._answer_over(passing, trailers, ok=ok)

    def broken(self, how: Broken) -> None:
        line, self._line = self._line, None
        name = self._backend.id
        if how == "closed":
            if line is not None and line.used and not self._stale and self._may_repeat():
                # The engine closed an idle connection just as it was used: nobody has read the request.
                self._stale = True
                self._connect(fresh=True)
                return
            self._fail(BackendFailed(f"backend {name} closed the connection without an answer"), Fault.CLOSED)
        elif how == "garbage":
            self._fail(BackendFailed(f"backend {name} answered something that is not HTTP"), Fault.GARBAGE)
        else:
            error = BackendFailed(f"backend {name} broke off in the middle of its answer")
            passing = self._passing
            if passing is not None and passing.broke_off(error):
                self._account.when_told(lambda: self._answer_over(passing, [], ok=False))
                return
            self._fail(error, Fault.GARBAGE)

    def engine_full(self) -> None:
        if self._streams_up or self._upgrades:
            self._connection.hold()

    def engine_ready(self) -> None:
        self._connection.release()

    def switched(self, answer: Answer, data: bytes) -> None:
        line = self._line
        if line is None or not self._upgrades:
            self._fail(
                BackendFailed(f"backend {self._backend.id} changed the protocol unasked"), Fault.GARBAGE
            )
            return
        self._account.http_status = answer.status
        self._reply.begun = True
        self._passing = tunnel = Tunnel(answer, self._connection, line)
        line.sink = tunnel.pieces
        if data:
            tunnel.pieces(data)

    # ends

    def _answer_over(self, passing: Passing, trailers: list[Header], *, ok: bool) -> None:
        """All of the answer is here and accounted for."""
        if not self._over:
            passing.end(trailers)
            self._end(ok=ok)

    def _may_repeat(self) -> bool:
        """Whether the request can be sent again: all of it is here, and doing it twice harms nobody."""
        ask = self._ask
        assert ask is not None
        if self._streams_up:
            return False
        return ask.method in ("GET", "HEAD", "OPTIONS") or (
            ask.method == "POST" and not ask.path.startswith(JOBS)
        )

    def _other(self, failure: Fault | int) -> Backend | None:
        """Another backend for the request, where this failure allows it."""
        if failure is not Fault.REFUSED and not self._may_repeat():
            return None
        ask, hints = self._ask, self._hints
        assert ask is not None
        return self._relay.backends.again(
            failure,
            self._tried,
            ask.model,
            session=hints.session,
            prefix=hints.prefix,
            answered=self._reply.begun,
        )

    def _move(self, other: Backend, failure: Fault | int) -> None:
        self._leave()
        log.info("backend %s gave %s; trying again on %s", self._backend.id, failure, other.id)
        self._release_backend(not is_failure(failure))
        self._account.move(other.id)
        self._try(other)

    def _turn_away(self, error: ApiError) -> None:
        """Not let in: no record is made of that, as whoever is not let in could fill the store with them."""
        if self._ask is None:
            self._understand()
        account = self._account
        account.status, account.http_status, account.closed = "rejected", error.status, True
        self._over = True
        write_error(self._reply, error, account.ask.request_id)
        self._relay.finished(account, self._began_s)
        self._connection.done(self)

    def _reject(self, error: ApiError) -> None:
        """Refused before it reached an engine; there is a record of that."""
        account = self._account
        account.open(None)
        account.status, account.http_status, account.error = "rejected", error.status, error.message
        account.close()
        self._over = True
        account.when_told(lambda: self._rejected(error))

    def _rejected(self, error: ApiError) -> None:
        account = self._account
        if not self._connection.transport.is_closing():
            write_error(self._reply, error, account.ask.request_id)
        self._relay.finished(account, self._began_s)
        self._connection.done(self)

    def _fail(self, error: ApiError, fault: Fault | None) -> None:
        """The try failed: make another, or tell the client in whatever form is still possible."""
        if self._over:
            return
        self._leave()
        if fault is not None and self._passing is None and (other := self._other(fault)) is not None:
            self._move(other, fault)
            return
        account = self._account
        if not account.closed:
            account.status = "engine_error" if fault is not None else "client_error"
            account.error = error.message
            if not self._reply.begun:
                account.http_status = error.status
            account.close()
        log.warning("%s %s: %s", account.ask.path, account.ask.request_id, error.message)
        account.when_told(lambda: self._failed(error, ok=None if fault is None else False))

    def _failed(self, error: ApiError, *, ok: bool | None) -> None:
        if self._over:
            return
        account = self._account
        if not self._reply.begun:
            write_error(self._reply, error, account.ask.request_id)
        elif self._passing is None or not self._passing.tell(error):
            self._connection.abort()
        self._end(ok=ok)

    def _break_off(self, why: str) -> None:
        """Nobody waits for the answer any more."""
        account = self._account
        if not account.closed:
            account.status, account.error = "aborted", why
            account.http_status = account.http_status or GONE_STATUS
            account.close()
        self._end(ok=None)

    def _leave(self) -> None:
        """Let go of the engine, which stops its work, save on images and videos."""
        line, self._line = self._line, None
        if line is not None:
            self._account.goes_on = self._account.ask.media is not None and self._request.complete
            line.abort()
        if self._give_up is not None:
            self._give_up()
            self._give_up = None

    def _release_backend(self, ok: bool | None) -> None:
        account, ttft_s, itl_s = self._account, None, None
        if account.tokens:
            ttft_s = account.first_s - self._sent_s
            if account.tokens > 1:
                itl_s = (account.last_s - account.first_s) / (account.tokens - 1)
        self._backend.end(ok, ttft_s, itl_s=itl_s, work=self._hints.work)

    def _end(self, *, ok: bool | None) -> None:
        self._over = True
        if self._account.waiting:
            self._account.forget()
        self._release_backend(ok)
        self._relay.finished(self._account, self._began_s)
        self._connection.done(self)
