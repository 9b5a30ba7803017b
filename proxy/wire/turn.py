"""A request's head, and what whoever answers it has to be."""

from __future__ import annotations

from typing import Protocol

from proxy.wire.head import Header

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Request:
    """A request's head; header names in lower case. `complete` once its body has been read."""

    __slots__ = ("chunked", "complete", "expects_continue", "headers", "http_11", "keep_alive", "length",
                 "method", "path", "query", "upgrade")  # fmt: skip

    def __init__(self, method: str, target: bytes, headers: list[Header], *, http_11: bool, keep_alive: bool):
        self.method, self.headers = method, headers
        path, _, self.query = target.partition(b"?")
        self.path = path.decode("latin-1")
        self.http_11, self.keep_alive = http_11, keep_alive and http_11
        self.complete = False
        self.upgrade = False
        self.length: int | None = None
        """The body's length as announced."""
        self.chunked = False
        self.expects_continue = False
        for name, value in headers:
            if name == b"content-length":
                self.length = int(value)
            elif name == b"transfer-encoding":
                self.chunked = True
            elif name == b"expect":
                self.expects_continue = http_11 and value.lower() == b"100-continue"

    @property
    def is_preflight(self) -> bool:
        """A browser's question whether a page may send a request (Fetch standard, 4.8); it shows no key."""
        if self.method != "OPTIONS" or self.length or self.chunked or self.upgrade:
            return False
        names = {name for name, _ in self.headers}
        return b"origin" in names and b"access-control-request-method" in names


class Turn(Protocol):
    """Whoever answers a request. It calls `Connection.done` once all of the answer is written."""

    def begin(self) -> None:
        """All requests before it have been answered. Body may have come before this."""

    def data(self, data: bytes) -> None:
        """A piece of the body."""

    def complete(self) -> None:
        """The body is whole."""

    def gone(self) -> None:
        """The client left, or sent nonsense: nothing is to be written any more."""

    def pause(self) -> None:
        """The client takes no more for now."""

    def resume(self) -> None:
        """It does again."""

    def look(self, now_s: float) -> None:
        """Time has passed (see sweep.py)."""

    def stop(self, why: str) -> None:
        """The server ends now: cut the answer off."""
