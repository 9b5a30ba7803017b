"""One connection to an engine: writes a request, hands on the answer's bytes as they come.

Whoever called hears of everything through the `Caller` it gave, in the callback of the socket itself. Parsing
is llhttp's, strict. An answer without length or chunks ends where the engine closes the connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, Protocol, cast

import httptools

from proxy.wire.chunk import payload_of
from proxy.wire.head import NO_BODY, Header, value_of

if TYPE_CHECKING:
    from proxy.wire.pool import Pool

Bytes = bytes | bytearray | memoryview

Broken = Literal["closed", "garbage", "torn"]
"""How an answer failed: no byte of one came; it is not HTTP; it ends before its end."""


class Answer:
    """The head of an engine's answer; header names in lower case."""

    __slots__ = ("headers", "reason", "status")

    def __init__(self, status: int, reason: bytes, headers: list[Header]) -> None:
        self.status, self.reason, self.headers = status, reason, headers

    def header(self, name: bytes) -> bytes | None:
        return value_of(self.headers, name)

    @property
    def length(self) -> int | None:
        found = value_of(self.headers, b"content-length")
        return None if found is None else int(found)


class Caller(Protocol):
    """Who sent the request."""

    def answered(self, answer: Answer) -> None:
        """The head came. The caller either sets `Line.sink`, which gets the body, or leaves (`Line.abort`,
        which is allowed in every call)."""

    def ended(self, trailers: list[Header]) -> None:
        """The answer is whole. The line has been given back."""

    def broken(self, how: Broken) -> None:
        """There will be no more of an answer. The line is closed."""

    def engine_full(self) -> None:
        """The engine takes no more of the request's body for now."""

    def engine_ready(self) -> None:
        """It does again."""

    def switched(self, answer: Answer, data: bytes) -> None:
        """The engine changed to another protocol (101); `data` is what came after its head."""


def _nowhere(data: bytes) -> None:
    """Nobody listens."""


class Line(asyncio.Protocol):
    """A connection to an engine; of one caller at a time."""

    __slots__ = ("_answer", "_between", "_caller", "_complete", "_headers", "_keep_alive", "_loop", "_parser",
                 "_parts", "_paused", "_pool", "_reason", "_sent_whole", "_started", "_switched", "_to_head",
                 "_trailers", "_until_close", "_whole", "framed", "full", "idle_since_s", "last_s", "on_body",
                 "sink", "transport", "used")  # fmt: skip

    def __init__(self, pool: Pool, loop: asyncio.AbstractEventLoop) -> None:
        self._pool, self._loop = pool, loop
        self._caller: Caller | None = None
        self.transport = cast(asyncio.Transport, None)
        self.used = 0
        """Requests sent over it before the present one."""
        self._paused = False
        self.full = False
        """The engine takes no more of the request's body for now."""
        self.idle_since_s = 0.0
        self.last_s = 0.0
        """When a piece of the request was sent last, or of the answer came; the loop's time."""
        self._parts: list[bytes] = []
        self.on_body = self._parts.append
        self.sink: Callable[[bytes], None] = _nowhere
        """Gets the bytes of the answer's body, as many as came at once."""
        self.framed: Callable[[bytes, bytes], None] | None = None
        """Gets a chunk that came whole and alone instead of `sink`, where set: as it is framed, and what is
        in it."""
        self._new()
        self._parser = httptools.HttpResponseParser(self)

    def _new(self) -> None:
        self._headers: list[Header] = []
        self._trailers: list[Header] = []
        self._reason = b""
        self._whole = 0
        self._answer: Answer | None = None
        self._started = self._complete = self._keep_alive = self._until_close = self._switched = False
        self._between = False
        """The parser has read all of a chunk and nothing of the next."""

    # for callers

    def send(self, caller: Caller, parts: list[Bytes], *, to_head: bool, whole: bool) -> None:
        """Send a request, all of it (`whole`) or its beginning. `to_head`: it is a HEAD."""
        self._new()
        self._caller, self._to_head, self._sent_whole = caller, to_head, whole
        self.last_s = self._loop.time()
        if len(parts) == 1:
            self.transport.write(parts[0])
        else:
            self.transport.writelines(parts)

    def more(self, data: Bytes, *, last: bool = False) -> None:
        """A further piece of the request's body, framed as its head said."""
        self.last_s = self._loop.time()
        if last:
            self._sent_whole = True
        if data and not self.transport.is_closing():
            self.transport.write(data)

    def pause(self) -> None:
        """Take no more of the answer for now: its reader is slow."""
        if not self._paused and not self.transport.is_closing():
            self._paused = True
            self.transport.pause_reading()

    def resume(self) -> None:
        if self._paused and not self.transport.is_closing():
            self._paused = False
            self.last_s = self._loop.time()
            self.transport.resume_reading()

    def abort(self) -> None:
        """Leave: the engine is to stop working on the request."""
        self._caller = None
        self.sink, self.framed = _nowhere, None
        self._keep_alive = False
        self.transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self._caller is None:
            self.transport.abort()  # an answer that nobody asked for: this line is out of step
            return
        self.last_s = self._loop.time()
        if self._between and self.framed is not None:
            payload = payload_of(data)
            if payload is not None:
                self.framed(data, payload)
                return
        self._started = True
        if self._switched:
            self.sink(data)
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._switch(data[upgrade.args[0] :])
            return
        except httptools.HttpParserError as error:
            if isinstance(error.__context__, Exception):
                raise  # our own fault in a callback
            if not self._complete:
                self._hand_on()
                self._break("torn" if self._answer is not None and self._answer.status >= 200 else "garbage")
                return
            self._keep_alive = False  # bytes after the end of the answer
        if not data.endswith(b"\r\n"):
            self._between = False
        if self._complete:
            del self._parts[self._whole :]  # of an answer that nobody asked for
        if self._parts:
            self._hand_on()
        if self._complete:
            self._end()

    def eof_received(self) -> None:
        """The engine closed; `connection_lost` follows."""

    def connection_lost(self, error: Exception | None) -> None:
        self._pool.lost(self)
        if self._caller is None:
            pass
        elif self._until_close and error is None:
            self._keep_alive = False
            self._end()
        else:
            self._break("torn" if self._started else "closed")

    def pause_writing(self) -> None:
        self.full = True
        if self._caller is not None:
            self._caller.engine_full()

    def resume_writing(self) -> None:
        self.full = False
        if self._caller is not None:
            self._caller.engine_ready()

    # httptools

    def on_status(self, reason: bytes) -> None:
        self._reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        if self._complete:
            self._keep_alive = False  # a second answer: this line is out of step
            return
        status = self._parser.get_status_code()
        if status < 200:
            if status != 101:
                self._headers, self._reason = [], b""  # an interim answer: not for the client
            return
        headers, self._headers = self._headers, []  # what comes now are trailers
        self._answer = answer = Answer(status, self._reason, headers)
        self._keep_alive = self._parser.should_keep_alive()
        if self._to_head:
            self._complete, self._keep_alive = True, False  # its length speaks of a body that does not come
        elif status not in NO_BODY:
            names = [name for name, _ in headers]
            self._until_close = b"content-length" not in names and b"transfer-encoding" not in names
        if self._caller is not None:
            self._caller.answered(answer)

    def on_chunk_header(self) -> None:
        self._between = False

    def on_chunk_complete(self) -> None:
        self._between = True

    def on_message_complete(self) -> None:
        if self._answer is not None and not self._complete:
            self._complete, self._whole = True, len(self._parts)
            self._trailers, self._headers = self._headers, []

    # inside

    def _hand_on(self) -> None:
        parts = self._parts
        if not parts:
            return
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        parts.clear()
        if self._caller is not None:
            self.sink(data)

    def _end(self) -> None:
        caller, self._caller = self._caller, None
        self.sink, self.framed = _nowhere, None
        if self._keep_alive and self._sent_whole and not self.full:
            self.resume()
            self.used += 1
            self._pool.give(self)
        else:
            self.transport.close()
        if caller is not None:
            caller.ended(self._trailers)

    def _break(self, how: Broken) -> None:
        caller, self._caller = self._caller, None
        self.sink, self.framed = _nowhere, None
        self.transport.abort()
        if caller is not None:
            caller.broken(how)

    def _switch(self, data: bytes) -> None:
        status = self._parser.get_status_code()
        if status != 101 or self._caller is None:
            self._break("garbage")
            return
        self._switched = True
        self._caller.switched(Answer(status, self._reason, self._headers), data)
