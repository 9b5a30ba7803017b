"""A client of a proxy, byte by byte: its requests, its connection, the answer it is to get."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

from tests.proxy.hand_engine import Wire
from tests.proxy.stack import Stack

BODY = b'{"model":"raw","messages":[{}]}'
CHUNKED = "transfer-encoding: chunked"
SAID = b'{"choices":[]}'
KEPT = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(SAID) + SAID


def post(
    body: bytes = BODY, *headers: str, path: str = "/v1/chat/completions", version: str = "1.1"
) -> bytes:
    lines = [f"POST {path} HTTP/{version}", "host: h", "content-type: application/json", *headers]
    if not any(line.lower().startswith(("content-length", "transfer-encoding")) for line in headers):
        lines.append(f"content-length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


@contextmanager
def client(stack: Stack, **options: int) -> Iterator[Wire]:
    wire = Wire.to(stack.proxy.url, **options)
    try:
        yield wire
    finally:
        wire.close()


def error_message(body: bytes) -> str:
    error = json.loads(body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return str(error["message"])
