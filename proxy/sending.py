"""A request as the engine gets it: the client's own, less what belongs to the client's connection."""

from __future__ import annotations

from proxy.ask import Ask
from proxy.telemetry import Span
from proxy.wire.client import Bytes
from proxy.wire.head import HOP_BY_HOP, Header, Headers, dropped, value_of, write_request
from proxy.wire.turn import Request

HELD_BYTES = 65_536
"""A body that is not read here is held up to this size: it can then be sent again. Larger ones go on. Up to
this size copying also costs less than a second system call."""


_AND_ENCODING = HOP_BY_HOP | {b"accept-encoding"}

CREDENTIALS = frozenset((b"authorization", b"x-api-key", b"api-key", b"cookie"))
"""What tells who the client is. It is joulegate's, where joulegate asks for keys."""


def engine_headers(
    ask: Ask, authority: bytes, span: Span | None, *, websocket: bool, keyed: bool, own: bytes | None
) -> list[Header]:
    """Encodings are refused where the answer must be read. `authority`: for a client that named no host.

    `own`: the Authorization that the engine wants of joulegate. It, and `keyed`, keep the client's own here.
    """
    drop = dropped(ask.headers)
    if ask.accounted:
        drop = _AND_ENCODING if drop is HOP_BY_HOP else {*drop, b"accept-encoding"}
    headers = [header for header in ask.headers if header[0] not in drop]
    if keyed or own is not None:
        headers = [header for header in headers if header[0] not in CREDENTIALS]
        if own is not None:
            headers.append((b"authorization", own))
    if value_of(headers, b"host") is None:
        headers.insert(0, (b"host", authority))
    if ask.send_request_id:
        headers.append((b"x-request-id", ask.request_id.encode("latin-1")))
    if websocket:
        headers += [(b"connection", b"Upgrade"), (b"upgrade", b"websocket")]
    if span is not None:
        headers = [header for header in headers if header[0] != b"traceparent"]
        headers.append((b"traceparent", span.traceparent.encode()))
    return headers


def whole_request(ask: Ask, target: bytes, headers: Headers, *, forced: bool) -> list[Bytes]:
    """Head and body; `forced`: with usage asked for."""
    body: list[Bytes] = [*ask.forced_parts()] if forced else [ask.body] if ask.body else []
    size = sum(map(len, body))
    named = size or ask.method in ("POST", "PUT", "PATCH")
    head = write_request(ask.method, target, headers, b"content-length: %d\r\n" % size if named else b"")
    return [b"".join([head, *body])] if size <= HELD_BYTES else [head, *body]


def begun_request(request: Request, target: bytes, headers: Headers, held: Bytes) -> list[Bytes]:
    """Head and so much of the body as is here, framed as the client frames it."""
    if not request.chunked:
        framing = b"content-length: %d\r\n" % (request.length or 0)
        return [write_request(request.method, target, headers, framing), held]
    head = write_request(request.method, target, headers, b"transfer-encoding: chunked\r\n")
    return [head, framed(request, held), b"0\r\n\r\n" if request.complete else b""]


def framed(request: Request, data: Bytes) -> Bytes:
    """A piece of a body that goes on, as its head announced it."""
    if not request.chunked or not data:
        return data
    return b"".join((b"%x\r\n" % len(data), data, b"\r\n"))
