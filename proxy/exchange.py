"""One request under way: from the client's connection to an engine, and the answer back.

Everything happens in the callbacks of the two sockets; there is no task per request. The request's body is
held whole where it is JSON, as it has to be read; other bodies (forms with sound or images, compressed ones)
go on as they come once they are larger than `HELD_BYTES`. What happens between here and an engine is an
`Attempt`; there is another one where the first failed and another engine may be asked. Whatever happens, the
client gets an end and the account is closed, once.
"""

from __future__ import annotations

import logging
from time import monotonic
from typing import TYPE_CHECKING

from proxy.account import Account
from proxy.ask import Ask, is_json, understand
from proxy.attempt import Attempt
from proxy.backends import ANY_MODEL, Backend
from proxy.errors import ApiError, BackendTimeout, BodyTooLarge, Forbidden
from proxy.hints import Hints
from proxy.media.ask import of_fields
from proxy.passing import Passing
from proxy.refusal import write_error
from proxy.retry import Fault, is_failure, may_repeat
from proxy.sending import HELD_BYTES
from proxy.telemetry import Span
from proxy.wire.body import Body
from proxy.wire.head import Header, value_of
from proxy.wire.reply import Reply
from proxy.wire.server import Connection
from proxy.wire.turn import CONTINUE, Request

if TYPE_CHECKING:
    from proxy.access.holder import Holder
    from proxy.relay import Relay

log = logging.getLogger(__name__)

GONE_STATUS = 499
"""Status in the record of a request whose client went away before the answer began (nginx's custom)."""

WAITING_BYTES = 262_144
"""Of a body that goes on so much waits for the engine; more waits in the client's socket."""


class Exchange:
    """A `Turn` on the client's connection. What has no underscore is for its attempts."""

    __slots__ = ("_attempt", "_began_s", "_begun", "_body_bytes", "_hints", "_over", "_tried", "account",
                 "ask", "body", "connection", "forced", "holder", "relay", "reply", "request", "span",
                 "streams_up", "upgrades")  # fmt: skip

    def __init__(self, relay: Relay, connection: Connection, request: Request) -> None:
        self.relay, self.connection, self.request = relay, connection, request
        self.body, self._body_bytes = Body(), 0
        self._begun = self._over = False
        self.streams_up = False
        """The body goes on as it comes."""
        self.reply = Reply(connection, request)
        self.forced = False
        """Usage is asked of the engine though the client did not."""
        self.upgrades = False
        """The client asks for a WebSocket."""
        self._began_s = monotonic()
        self.ask: Ask | None = None
        self._attempt: Attempt | None = None
        """None: the request has not been dispatched."""
        self._tried: list[Backend] = []
        self.account: Account
        self._hints: Hints
        self.span: Span | None = None
        self.holder: Holder | None = None
        """Whose key it came with, where keys are asked for."""

    # the client's side: Turn

    def begin(self) -> None:
        self._begun = True
        self._began_s = monotonic()  # the loop's time stands still within a round
        request, gate = self.request, self.relay.gate
        if gate is not None and not request.is_preflight:
            try:
                self.holder = gate.know(request.headers)
            except ApiError as refusal:  # before any of the body is taken
                self._turn_away(refusal)
                return
        if self._too_large(request.length or self._body_bytes):
            return
        if request.complete:
            self._dispatch()
        elif request.length or request.chunked:
            if request.expects_continue:
                self.connection.transport.write(CONTINUE)
            self._go_on()

    def data(self, data: bytes) -> None:
        if self._over:
            return
        self._body_bytes += len(data)
        if self._begun and self._too_large(self._body_bytes):
            return
        attempt = self._attempt
        if attempt is None:
            self.body.add(data)
            self._go_on()
            return
        self._read_on(data)
        if self._doubtful():
            self.fail(_doubtful())
            return
        if attempt.more(data):
            return
        self.body.add(data)
        if len(self.body) > WAITING_BYTES:
            self.connection.hold()

    def complete(self) -> None:
        if self._over or not self._begun:
            return
        attempt = self._attempt
        if attempt is None:
            self._dispatch()
            return
        if self.ask is not None and self.ask.form is not None:
            self.account.is_for(of_fields(self.ask.path, self.ask.form.fields))
        attempt.complete()

    def gone(self) -> None:
        if self.reply.begun and not self._over:
            self.connection.abort()  # half an answer: nothing else can follow it
        self.stop("the client closed the connection")

    def pause(self) -> None:
        if self._attempt is not None:
            self._attempt.pause()

    def resume(self) -> None:
        if self._attempt is not None:
            self._attempt.resume()

    def look(self, now_s: float) -> None:
        timeouts, attempt = self.relay.timeouts, self._attempt
        if self._over or attempt is None or self.account.closed:
            return  # or all of it is here, and the end is on its way into the journal
        if timeouts.total_s is not None and now_s - self._began_s > timeouts.total_s:
            self.fail(BackendTimeout(f"the request took longer than {timeouts.total_s:g} s"), Fault.TIMEOUT)
        else:
            attempt.look(now_s, timeouts)

    def stop(self, why: str) -> None:
        if self._over:
            return
        self.leave()
        if self._attempt is not None:
            self._break_off(why)

    # choosing

    def _too_large(self, size: int) -> bool:
        if size <= self.relay.max_body_bytes:
            return False
        error = BodyTooLarge(f"the request body is larger than {self.relay.max_body_bytes} bytes")
        if self._attempt is not None:
            self.fail(error)
        else:
            self._understand()
            self._reject(error)
        return True

    def _go_on(self) -> None:
        """Send a large body that is not read here on, if it is time for that."""
        if self._begun and len(self.body) >= HELD_BYTES and not is_json(self.request.headers):
            self.streams_up = True
            self._dispatch()

    def _understand(self) -> Ask:
        request = self.request
        ask = understand(request.method, request.path, request.query, request.headers, self.body.held)
        size = self._body_bytes if request.length is None else request.length
        self.ask, self.account = ask, Account(self.relay.accountant, ask, size)
        self.forced = ask.forced_at is not None
        self.upgrades = request.upgrade and (value_of(ask.headers, b"upgrade") or b"").lower() == b"websocket"
        if ask.body_user is not None:
            ask.user_id = self.relay.user_of(ask.body_user)
        if self.holder is not None:
            self.holder.mark(ask)
        return ask

    def _read_on(self, data: bytes) -> None:
        """More of a form that goes on as it comes."""
        ask = self.ask
        if ask is not None and ask.form is not None:
            ask.form.feed(data)
        if ask is not None and ask.naming is not None and self._is_for_some_models():
            ask.naming.feed(data)

    def _is_for_some_models(self) -> bool:
        key = None if self.holder is None else self.holder.key
        return key is not None and key.models is not None

    def _doubtful(self) -> bool:
        """Whether the form names another model than the one that its key was asked for."""
        naming = None if self.ask is None else self.ask.naming
        return naming is not None and naming.doubtful and self._is_for_some_models()

    def _dispatch(self) -> None:
        ask = self._understand()
        if self._doubtful():
            self._turn_away(_doubtful())
            return
        relay, account = self.relay, self.account
        gate, holder = relay.gate, self.holder
        try:
            if gate is not None and holder is not None:
                account.grant = gate.admit(holder, ask, account.body_bytes, tunnel=self.upgrades)
        except ApiError as refusal:
            self._turn_away(refusal)
            return
        try:
            hints = relay.backends.hints(ask.headers, ask.body, length=account.body_bytes)
            backend = relay.backends.choose(self._model, session=hints.session, prefix=hints.prefix)
        except ApiError as refusal:
            self._reject(refusal)
            return
        self._hints = hints
        self.span = relay.arriving(ask) if ask.accounted else None
        account.open(backend.id)
        self._try(backend)

    @property
    def _model(self) -> str | None:
        """Whose backends may be asked."""
        if self.request.method == "OPTIONS":
            return ANY_MODEL
        return None if self.ask is None else self.ask.model

    def _try(self, backend: Backend) -> None:
        self._tried.append(backend)
        backend.begin(self._hints.work)
        self._attempt = attempt = Attempt(self, backend)
        attempt.connect()

    def other(self, failure: Fault | int) -> Backend | None:
        """Another backend for the request, where this failure allows it."""
        ask, hints = self.ask, self._hints
        assert ask is not None
        if failure is not Fault.REFUSED and (self.streams_up or not may_repeat(ask)):
            return None
        return self.relay.backends.again(
            failure,
            self._tried,
            self._model,
            session=hints.session,
            prefix=hints.prefix,
            answered=self.reply.begun,
        )

    def move(self, other: Backend, failure: Fault | int) -> None:
        """This attempt failed so: begin another one there."""
        assert self._attempt is not None
        self.leave()
        log.info("backend %s gave %s; trying again on %s", self._attempt.backend.id, failure, other.id)
        self._release_backend(self._attempt, not is_failure(failure))
        self.account.move(other.id)
        self._try(other)

    # ends

    def answer_over(self, passing: Passing, trailers: list[Header], *, ok: bool) -> None:
        """All of the answer is here and accounted for."""
        if not self._over:
            passing.end(trailers)
            self._end(ok=ok)

    def fail(self, error: ApiError, fault: Fault | None = None) -> None:
        """The attempt failed, or none can be made any more: make another, or tell the client in whatever form
        is still possible."""
        attempt = self._attempt
        if self._over or attempt is None:
            return
        self.leave()
        if fault is not None and attempt.passing is None and (other := self.other(fault)) is not None:
            self.move(other, fault)
            return
        account = self.account
        if not account.closed:
            account.status = "engine_error" if fault is not None else "client_error"
            account.error = error.message
            if not self.reply.begun:
                account.http_status = error.status
            account.close()
        log.warning("%s %s: %s", account.ask.path, account.ask.request_id, error.message)
        account.when_told(lambda: self._failed(error, ok=None if fault is None else False))

    def _failed(self, error: ApiError, *, ok: bool | None) -> None:
        if self._over or self._attempt is None:
            return
        passing = self._attempt.passing
        if not self.reply.begun:
            write_error(self.reply, error, self.account.ask.request_id)
        elif passing is None or not passing.tell(error):
            self.connection.abort()
        self._end(ok=ok)

    def client_stuck(self) -> None:
        """The client takes nothing any more."""
        self.stop("the client took nothing of the answer for too long")
        self.connection.abort()

    def leave(self) -> None:
        """Let go of the engine, which stops its work, save on images and videos."""
        if self._attempt is not None and self._attempt.leave():
            self.account.goes_on = self.account.ask.media is not None and self.request.complete

    def _turn_away(self, error: ApiError) -> None:
        """Not let in: no record is made of that, as whoever is not let in could fill the store with them."""
        if self.ask is None:
            self._understand()
        account = self.account
        account.status, account.http_status, account.closed = "rejected", error.status, True
        self._over = True
        write_error(self.reply, error, account.ask.request_id)
        self._done()

    def _reject(self, error: ApiError) -> None:
        """Refused before it reached an engine; there is a record of that."""
        account = self.account
        account.open(None)
        account.status, account.http_status, account.error = "rejected", error.status, error.message
        account.close()
        self._over = True
        account.when_told(lambda: self._rejected(error))

    def _rejected(self, error: ApiError) -> None:
        if not self.connection.transport.is_closing():
            write_error(self.reply, error, self.account.ask.request_id)
        self._done()

    def _break_off(self, why: str) -> None:
        """Nobody waits for the answer any more."""
        account = self.account
        if not account.closed:
            account.status, account.error = "aborted", why
            account.http_status = account.http_status or GONE_STATUS
            account.close()
        self._end(ok=None)

    def _release_backend(self, attempt: Attempt, ok: bool | None) -> None:
        account, ttft_s, itl_s = self.account, None, None
        if account.tokens:
            ttft_s = account.first_s - attempt.sent_s
            if account.tokens > 1:
                itl_s = (account.last_s - account.first_s) / (account.tokens - 1)
        attempt.backend.end(ok, ttft_s, itl_s=itl_s, work=self._hints.work)

    def _end(self, *, ok: bool | None) -> None:
        assert self._attempt is not None
        self._over = True
        if self.account.waiting:
            self.account.forget()
        self._release_backend(self._attempt, ok)
        self._done()

    def _done(self) -> None:
        # The attempt refers to us: both, and the bodies that they hold, would wait for the garbage collector.
        self._attempt = None
        self.relay.finished(self.account, self._began_s)
        self.connection.done(self)


def _doubtful() -> Forbidden:
    return Forbidden("the form does not name one model, and the key is for some models only", param="model")
