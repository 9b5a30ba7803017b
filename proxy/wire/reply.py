"""The answer to one request on a client's connection: its head, its framing, its end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.wire.head import HOP_BY_HOP, NO_BODY, Header, Headers, write_answer

if TYPE_CHECKING:
    from proxy.wire.server import Connection
    from proxy.wire.turn import Request


JOINED_BYTES = 65_536
"""Each write is a system call: up to this size copying costs less than a second one."""


class Reply:
    """`begin`, any number of `send`, `end`: each writes at once. After the client has left nothing is to be
    called. A client of HTTP/1.0 gets no chunks: there the end of the connection is the end of the body.
    """

    __slots__ = ("_bodyless", "_connection", "_request", "_write", "begun", "chunked")

    def __init__(self, connection: Connection, request: Request) -> None:
        self._connection, self._request = connection, request
        self._write = connection.transport.write
        self._bodyless = False
        self.chunked = False
        """The body goes in chunks."""
        self.begun = False

    @property
    def asked(self) -> Headers:
        """The headers of the request."""
        return self._request.headers

    def begin(
        self, status: int, headers: Headers, *, length: int | None, reason: bytes | None = None
    ) -> None:
        """The head. `headers` without framing; `length` of the body, None where it is not known."""
        self._write(self._head(status, headers, length, reason))

    def _head(self, status: int, headers: Headers, length: int | None, reason: bytes | None) -> bytes:
        self.begun = True
        request = self._request
        self._bodyless = request.method == "HEAD" or status in NO_BODY
        framing = b""
        if length is not None and status not in NO_BODY:
            framing = b"content-length: %d\r\n" % length
        elif not self._bodyless:
            if request.http_11:
                self.chunked = True
                framing = b"transfer-encoding: chunked\r\n"
            else:
                request.keep_alive = False
        if self._connection.draining or not request.complete:
            request.keep_alive = False
        if not request.keep_alive:
            framing += b"connection: close\r\n"
        return write_answer(status, reason, headers, framing)

    def send(self, data: bytes) -> None:
        """A piece of the body; not an empty one, which would end it."""
        if self.chunked:
            self._write(b"%x\r\n%b\r\n" % (len(data), data))
        elif not self._bodyless:
            self._write(data)

    def framed(self, chunk: bytes) -> None:
        """A piece of the body that is a chunk already, where it is `chunked`."""
        self._write(chunk)

    def whole(self, status: int, headers: Headers, body: bytes, *, reason: bytes | None = None) -> None:
        """All of an answer."""
        head = self._head(status, headers, len(body), reason)
        if self._bodyless:
            self._write(head)
        elif len(body) <= JOINED_BYTES:
            self._write(head + body)
        else:
            self._connection.transport.writelines([head, body])

    def end(self, trailers: list[Header] | None = None) -> None:
        """The end of the body."""
        if not self.chunked:
            return
        if not trailers:
            self._write(b"0\r\n\r\n")
            return
        kept = b"".join(b"%b: %b\r\n" % (name, value) for name, value in trailers if name not in HOP_BY_HOP)
        self._write(b"0\r\n%b\r\n" % kept)
