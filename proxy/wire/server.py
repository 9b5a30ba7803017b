"""A client's connection: reads requests, gives each to whoever answers it, keeps their order.

uvicorn makes one of these per connection (its `http=`); it keeps the set of connections and calls `shutdown`
on each when it stops. Requests for the relay are answered at this level; all others go to the FastAPI
application the way uvicorn's own protocol would take them (asgi.py). Parsing is llhttp's, strict: no folded
headers, no second length, no length beside chunks, no odd chunk sizes.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import httptools
from uvicorn.config import Config
from uvicorn.server import ServerState

from proxy.wire.head import Header, value_of
from proxy.wire.limits import LINGER_S
from proxy.wire.turn import Request, Turn

if TYPE_CHECKING:
    from proxy.wire.front import Front

log = logging.getLogger(__name__)

PIPELINED_BYTES = 65_536
"""So much is read ahead of a client that does not wait for its answers; more waits in its socket."""


class Connection(asyncio.Protocol):
    """One client's connection."""

    __slots__ = ("_app_state", "_config", "_deadline_s", "_dull", "_early", "_ended", "_fault", "_front",
                 "_head_bytes", "_headers", "_held", "_in_head", "_parser", "_queue", "_queued_bytes",
                 "_reading", "_request", "_state", "_tunnel", "_turn", "_turn_request", "_unsent", "_url",
                 "draining", "loop", "paused", "transport")  # fmt: skip

    def __init__(
        self,
        front: Front,
        config: Config,
        state: ServerState,
        app_state: dict[str, Any],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._front, self._config, self._state, self._app_state = front, config, state, app_state
        self.loop = loop
        self.transport = cast(asyncio.Transport, None)
        self.draining = False
        """The server stops: the answer under way is the last one."""
        self.paused = False
        """The client takes no more for now."""
        self._turn: Turn | None = None
        self._turn_request: Request | None = None
        self._queue: deque[tuple[Request, Turn]] = deque()
        self._queued_bytes = 0
        self._reading: Turn | None = None  # whose body is being read
        self._request: Request | None = None  # likewise
        self._dull = False  # what comes is thrown away
        self._ended = False  # all that there is to say has been said
        self._tunnel: Callable[[bytes], None] | None = None
        self._early = b""  # what came before the tunnel was made
        self._fault: str | None = None
        self._held = False
        self._unsent = 0  # bytes of answers that the client had not taken when we looked last
        self._in_head = True
        self._head_bytes = 0
        self._url = b""
        self._headers: list[Header] = []
        self._deadline_s = 0.0
        self._parser = httptools.HttpRequestParser(self)

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._state.connections.add(cast(Any, self))
        self._front.connections.add(self)
        self._deadline_s = self.loop.time() + self._front.limits.head_s

    def connection_lost(self, error: Exception | None) -> None:
        self._state.connections.discard(cast(Any, self))
        self._front.connections.discard(self)
        turn, self._turn, self._reading, self._dull = self._turn, None, None, True
        self._queue.clear()
        if turn is not None:
            turn.gone()
        self._parser = cast(Any, None)  # it refers to us: without it the reference count is enough

    def data_received(self, data: bytes) -> None:
        if self._dull:
            if self._tunnel is not None:
                self._tunnel(data)
            elif self._request is None and self._turn is not None and len(self._early) < PIPELINED_BYTES:
                self._early += data
            return
        if self._in_head:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._dull = True  # not HTTP any more, unless a tunnel is made of it, not anything
            self._early = data[upgrade.args[0] :]
        except httptools.HttpParserError as error:
            self._bad_request(error)
            return
        if self._in_head and self._head_bytes > self._front.limits.head_bytes:
            self._too_long()

    def pause_writing(self) -> None:
        self.paused = True
        if self._turn is not None:
            self._turn.pause()

    def resume_writing(self) -> None:
        self.paused = False
        if self._turn is not None:
            self._turn.resume()
        elif self._queue:
            self.loop.call_soon(self._next)

    # httptools

    def on_message_begin(self) -> None:
        self._in_head, self._url, self._headers = True, b"", []
        if self._turn is None:
            self._deadline_s = self.loop.time() + self._front.limits.head_s

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # and not a trailer, which is of no use here
            self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self._in_head, self._head_bytes = False, 0
        parser, target = self._parser, self._url
        if not target.startswith(b"/") or b"#" in target:
            target = _origin_form(target)
        version = parser.get_http_version()
        request = Request(
            parser.get_method().decode(),
            target,
            self._headers,
            http_11=version == "1.1",
            keep_alive=parser.should_keep_alive(),
        )
        turn = self._open(request, version)
        self._reading, self._request = turn, request
        if self._turn is None and not self._queue and not self.paused:
            self._turn, self._turn_request = turn, request
            self._deadline_s = self.loop.time() + self._front.limits.body_idle_s
            turn.begin()
        else:
            self._queue.append((request, turn))

    def on_body(self, data: bytes) -> None:
        if self._queue:
            self._queued_bytes += len(data)
            if self._queued_bytes > PIPELINED_BYTES:
                self.hold()
        if self._reading is not None:
            self._deadline_s = self.loop.time() + self._front.limits.body_idle_s
            self._reading.data(data)

    def on_message_complete(self) -> None:
        turn, request = self._reading, self._request
        self._reading = self._request = None
        self._in_head = True
        if request is not None:
            request.complete = True
        if turn is not None:
            self._reading = turn  # should it fail, it is the one that cannot be handled
            turn.complete()
            self._reading = None
        elif self._turn is None:
            self.transport.close()  # an early answer was given; all of its request has now come
        if len(self._queue) > 1:
            self._queued_bytes += PIPELINED_BYTES // 16
            if self._queued_bytes > PIPELINED_BYTES:
                self.hold()

    # for turns

    def done(self, turn: Turn) -> None:
        """The turn has written all of its answer."""
        request = self._turn_request
        if turn is not self._turn or request is None:
            return
        self._turn = self._turn_request = None
        self._state.total_requests += 1
        if self.transport.is_closing():
            return
        self.release()
        if not request.complete:
            # Closing at once could reset the connection before the client has read the answer.
            self._reading = None
            self._deadline_s = self.loop.time() + LINGER_S
            self._ended = True
            self.transport.write_eof()
        elif not request.keep_alive or self.draining:
            self.transport.close()
        elif self._queue:
            self.loop.call_soon(self._next)
        elif self._fault is not None:
            self._refuse(400, self._fault)
        else:
            self._deadline_s = self.loop.time() + self._front.limits.keep_alive_s

    def tunnel(self, take: Callable[[bytes], None]) -> None:
        """From now on every byte of the client goes to `take` (after an upgrade)."""
        self._tunnel = take
        early, self._early = self._early, b""
        if early:
            take(early)

    def refuse(self, turn: Turn, status: int, message: str) -> None:
        """In place of the turn's answer, of which nothing was written, say this, and close."""
        self._drop(turn)
        self._refuse(status, message)

    def abort(self) -> None:
        """Break the connection: what was written is not the whole of an answer."""
        self.transport.abort()

    def hold(self) -> None:
        """Read no more of the client for now."""
        if not self._held and not self.transport.is_closing():
            self._held = True
            self.transport.pause_reading()

    def release(self) -> None:
        """Read on."""
        if self._held:
            self._held = False
            if not self.transport.is_closing():
                self.transport.resume_reading()

    @property
    def turn(self) -> Turn | None:
        """Who answers now."""
        return self._turn

    # the server's

    def shutdown(self) -> None:
        """uvicorn's: finish what is under way, then close."""
        self.draining = True
        if self._turn is None and self._reading is None:
            self.transport.close()

    def look(self, now_s: float) -> None:
        """Called now and then: is anything overdue?"""
        turn, request = self._turn, self._turn_request
        if turn is None or request is None:
            unsent = self.transport.get_write_buffer_size()
            if unsent and unsent != self._unsent:
                # The client still takes what is written: it has as long for each piece as for one it sends.
                self._unsent = unsent
                self._deadline_s = now_s + self._front.limits.body_idle_s
            elif now_s > self._deadline_s:
                self._unsent = unsent
                self._overdue()
        elif (
            not request.complete and self._request is request and now_s > self._deadline_s and not self._held
        ):
            self._drop(turn)
            self._refuse(408, "the request's body did not come in time")
        else:
            turn.look(now_s)

    def stop(self, why: str) -> None:
        """The server ends: cut off the answer under way."""
        if self._turn is not None:
            self._turn.stop(why)
        if not self.transport.is_closing():
            self.transport.abort()

    # inside

    def _open(self, request: Request, version: str) -> Turn:
        front, limits = self._front, self._front.limits
        size = len(self._url) + sum(len(name) + len(value) for name, value in self._headers)
        if size > limits.head_bytes:
            return front.refuse(
                self, request, 431, f"the request's head is larger than {limits.head_bytes} bytes"
            )
        if version not in ("1.1", "1.0"):
            return front.refuse(self, request, 505, f"HTTP/{version} is not spoken here")
        if [name for name, _ in self._headers].count(b"host") > 1:  # RFC 9112, 3.2
            return front.refuse(self, request, 400, "the request names two hosts")
        if request.chunked and not request.http_11:
            return front.refuse(self, request, 400, "HTTP/1.0 knows no transfer-encoding")
        if request.chunked and not _is_chunked(request):
            return front.refuse(self, request, 501, "the only transfer-encoding known here is chunked")
        if self._parser.should_upgrade() and (
            request.length or request.chunked or request.method == "CONNECT"
        ):
            return front.refuse(self, request, 501, "connections are not upgraded here")
        request.upgrade = self._parser.should_upgrade()
        if request.upgrade:
            request.keep_alive = False
        if front.relayed(request.method, request.path):
            return front.relay(self, request)
        if front.elsewhere is not None:
            return front.elsewhere(self, request)
        from proxy.wire.asgi import AppTurn

        return AppTurn(self, request, self._config, self._state, self._app_state)

    def _next(self) -> None:
        """Begin with the next request that came, unless the client has still to take the answers before."""
        if self._turn is not None or not self._queue or self.paused or self.transport.is_closing():
            return
        self._turn_request, self._turn = self._queue.popleft()
        if not self._queue:
            self._queued_bytes = 0
        self._turn.begin()

    def _drop(self, turn: Turn) -> None:
        self._turn = self._turn_request = self._reading = None
        turn.gone()

    def _bad_request(self, error: Exception) -> None:
        """After what cannot be read nothing can be read."""
        self._dull = True
        message = f"this is not HTTP: {error}"
        if error.__context__ is not None and isinstance(error, httptools.HttpParserCallbackError):
            log.error("a request could not be handled", exc_info=error.__context__)
            message = "the request could not be handled"
        turn, reading = self._turn, self._reading
        if reading is not None and reading is turn:
            self._drop(turn)
            self._refuse(400, message)
        elif reading is not None:  # queued: those before it are still answered
            self._queue.pop()
            self._fault = message
        elif turn is None:
            self._refuse(400, message)
        else:
            self._fault = message

    def _too_long(self) -> None:
        limit = self._front.limits.head_bytes
        self._dull = True
        self._fault = f"the request's head is larger than {limit} bytes"
        if self._turn is None:
            self._refuse(431, self._fault)

    def _overdue(self) -> None:
        if self._unsent:
            self.transport.abort()
        elif self._in_head and self._head_bytes and not self._dull:
            self._refuse(408, "the request's head did not come in time")
        else:
            self.transport.close()

    def _refuse(self, status: int, message: str) -> None:
        """Say what is wrong, outside of any turn, and close."""
        self._dull = True
        if self.transport.is_closing() or self._ended:
            return
        self._fault = None
        request = Request("GET", b"/", [], http_11=True, keep_alive=False)
        turn = self._front.refuse(self, request, status, message)
        self._turn, self._turn_request = turn, request
        turn.begin()
        turn.complete()  # nothing more is waited for


def _is_chunked(request: Request) -> bool:
    coding = value_of(request.headers, b"transfer-encoding") or b""
    return coding.lower() == b"chunked"  # RFC 9112, 7: names of codings have no case


def _origin_form(target: bytes) -> bytes:
    """Path and query of a target in another form, such as that of a request to a forward proxy."""
    try:
        url = httptools.parse_url(target)
    except httptools.HttpParserInvalidURLError:
        return target if target == b"*" else b"/"
    return (url.path or b"/") + (b"?" + url.query if url.query else b"")
