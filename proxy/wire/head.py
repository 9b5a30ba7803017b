"""Heads of requests and answers: what passes a proxy and what does not, and how they are written."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from http import HTTPStatus

Header = tuple[bytes, bytes]
Headers = Sequence[Header]
"""In order, duplicates kept, names in lower case."""

HOP_BY_HOP = frozenset(
    b"connection keep-alive proxy-connection proxy-authenticate proxy-authorization te trailer"
    b" transfer-encoding upgrade http2-settings expect content-length".split()
)
"""What belongs to one connection (RFC 9110, 7.6.1), and what whoever sends a body says of it. `expect` is
answered here."""

FRAMING = frozenset((b"content-length", b"transfer-encoding", b"trailer"))

NO_BODY = frozenset((204, 304))
REASONS = {status.value: status.phrase.encode() for status in HTTPStatus}


def value_of(headers: Iterable[Header], name: bytes) -> bytes | None:
    """The first header of that (lower case) name."""
    for key, value in headers:
        if key == name:
            return value
    return None


def dropped(headers: Headers) -> Collection[bytes]:
    """The names that stay here: the hop-by-hop ones and those that a Connection header names."""
    named: set[bytes] | None = None
    for name, value in headers:
        if name == b"connection":
            named = named or set()
            named.update(option.strip().lower() for option in value.split(b","))
    if not named or named <= _COMMON:
        return HOP_BY_HOP
    return HOP_BY_HOP | (named - _END_TO_END)


_COMMON = frozenset((b"keep-alive", b"close", b"te", b"upgrade"))

_END_TO_END = frozenset((b"host", b"authorization", b"content-type", b"content-encoding", b"x-request-id"))
"""Nobody takes these away by naming them: what a request is must not depend on a header of the hop."""


def write_request(method: str, target: bytes, headers: Iterable[Header], framing: bytes) -> bytes:
    """`framing`: the lines that tell the body's length, each with its CRLF; may be empty."""
    lines = [b"%b: %b\r\n" % header for header in headers]
    return b"%b %b HTTP/1.1\r\n%b%b\r\n" % (method.encode("latin-1"), target, b"".join(lines), framing)


def write_answer(status: int, reason: bytes | None, headers: Iterable[Header], framing: bytes) -> bytes:
    """`reason` None: the usual words for the status."""
    lines = [b"%b: %b\r\n" % header for header in headers]
    words = REASONS.get(status, b"") if reason is None else reason
    return b"HTTP/1.1 %d %b\r\n%b%b\r\n" % (status, words, b"".join(lines), framing)
