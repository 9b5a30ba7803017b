"""Passes a request that is not for an engine from a worker to the main process, and the answer back."""

from __future__ import annotations

import logging
from collections.abc import Callable
from uuid import uuid4

from proxy.ask import header
from proxy.errors import BackendUnavailable, BodyTooLarge
from proxy.refusal import write_error
from proxy.wire.asgi import BODY_BYTES
from proxy.wire.client import Answer, Broken, Bytes, Line
from proxy.wire.head import FRAMING, Header, dropped, write_request
from proxy.wire.pool import Pool
from proxy.wire.reply import Reply
from proxy.wire.server import Connection
from proxy.wire.turn import CONTINUE, Request

log = logging.getLogger(__name__)


class Forward:
    """A `Turn` on the client's connection and the `Caller` of a line to the main process.

    Bodies are small here (`BODY_BYTES`), so each is sent whole.
    """

    __slots__ = ("_again", "_begun", "_body", "_connection", "_give_up", "_line", "_over", "_pool", "_reply",
                 "_request")  # fmt: skip

    def __init__(self, pool: Pool, connection: Connection, request: Request) -> None:
        self._pool, self._connection, self._request = pool, connection, request
        self._reply = Reply(connection, request)
        self._body = bytearray()
        self._line: Line | None = None
        self._give_up: Callable[[], object] | None = None
        self._begun = self._over = self._again = False

    # the client's side

    def begin(self) -> None:
        self._begun = True
        if self._request.complete:
            self._dispatch()
        elif self._request.expects_continue:
            self._connection.transport.write(CONTINUE)

    def data(self, data: bytes) -> None:
        self._body += data
        if len(self._body) > BODY_BYTES and self._begun and not self._over:
            self._refuse(BodyTooLarge(f"the request body is larger than {BODY_BYTES} bytes"))

    def complete(self) -> None:
        if self._begun and not self._over:
            self._dispatch()

    def gone(self) -> None:
        if self._reply.begun and not self._over:
            self._connection.abort()  # half an answer: nothing else can follow it
        self._over = True
        self._leave()

    def pause(self) -> None:
        if self._line is not None:
            self._line.pause()

    def resume(self) -> None:
        if self._line is not None:
            self._line.resume()

    def look(self, now_s: float) -> None:
        """The application's routes answer soon by themselves."""

    def stop(self, why: str) -> None:
        self.gone()

    # the main process's side

    def _dispatch(self) -> None:
        line = None if self._again else self._pool.take()
        if line is None:
            self._give_up = self._pool.connect(self._send, self._not_connected)
        else:
            self._send(line)

    def _send(self, line: Line) -> None:
        request, body = self._request, self._body
        self._give_up, self._line = None, line
        drop = dropped(request.headers)
        headers = [one for one in request.headers if one[0] not in drop]
        target = request.path.encode("latin-1") + (b"?" + request.query if request.query else b"")
        framing = b"content-length: %d\r\n" % len(body) if body else b""
        parts: list[Bytes] = [write_request(request.method, target, headers, framing) + body]
        line.send(self, parts, to_head=request.method == "HEAD", whole=True)

    def _not_connected(self, error: OSError) -> None:
        self._give_up = None
        self._refuse(
            BackendUnavailable(f"joulegate's main process does not answer: {error}", retry_after_s=1)
        )

    def answered(self, answer: Answer) -> None:
        assert self._line is not None
        drop = dropped(answer.headers)
        headers = [one for one in answer.headers if one[0] not in drop and one[0] not in FRAMING]
        self._reply.begin(answer.status, headers, length=answer.length, reason=answer.reason)
        self._line.sink = self._reply.send
        if self._connection.paused:
            self._line.pause()

    def ended(self, trailers: list[Header]) -> None:
        self._line = None
        self._reply.end(trailers)
        self._done()

    def broken(self, how: Broken) -> None:
        line, self._line = self._line, None
        safe = self._request.method in ("GET", "HEAD")
        if how == "closed" and line is not None and line.used and safe and not self._again:
            self._again = True  # it closed an idle connection just as that was used
            self._dispatch()
        elif self._reply.begun:
            self._over = True
            self._connection.abort()
        else:
            self._refuse(BackendUnavailable("joulegate's main process broke off", retry_after_s=1))

    def engine_full(self) -> None:
        """All of the request has been handed over."""

    def engine_ready(self) -> None:
        """Likewise."""

    def switched(self, answer: Answer, data: bytes) -> None:
        """The main process never does that."""
        self.broken("garbage")

    # ends

    def _refuse(self, error: BackendUnavailable | BodyTooLarge) -> None:
        log.warning("%s %s: %s", self._request.method, self._request.path, error.message)
        write_error(self._reply, error, header(self._request.headers, b"x-request-id") or str(uuid4()))
        self._done()

    def _done(self) -> None:
        self._over = True
        self._connection.done(self)

    def _leave(self) -> None:
        line, self._line = self._line, None
        if line is not None:
            line.abort()
        if self._give_up is not None:
            self._give_up()
            self._give_up = None
