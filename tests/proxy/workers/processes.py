"""Connections of which is known which process has them, and requests on them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from tests.proxy.hand_engine import Wire
from tests.proxy.stack import CHAT, Stack, chat, until
from tests.proxy.workers.test_many import workers

JSON = "application/json"


class Answered(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> str:
        """Of the error."""
        return str(json.loads(self.body)["error"]["code"])


def processes(stack: Stack) -> dict[int, int]:
    """Process ids by source; the main process is 0."""
    assert stack.proxy.pid is not None
    return {0: stack.proxy.pid, **workers(stack)}


def wire_to(stack: Stack, source: int) -> Wire:
    """A connection to this process."""
    while True:
        wire = Wire.to(stack.proxy.url)
        if owner(stack, wire) == source:
            return wire
        wire.close()


def owner(stack: Stack, wire: Wire) -> int:
    """Which process has the connection."""

    def found() -> int | None:
        entry = _entry(stack, port_of(wire))
        inode = None if entry is None else entry[9]
        for source, pid in processes(stack).items():
            if f"socket:[{inode}]" in _files(pid):
                return source
        return None  # nobody has accepted it yet

    return until(found, "a process has the connection")


def port_of(wire: Wire) -> int:
    """The client's port, by which the connection is known."""
    port: int = wire.socket.getsockname()[1]
    return port


def unread(stack: Stack, port: int) -> int | None:
    """Bytes that the process has not read yet; None: it has closed the connection."""
    entry = _entry(stack, port)
    return None if entry is None else int(entry[4].partition(":")[2], 16)


def _entry(stack: Stack, port: int) -> list[str] | None:
    """The proxy's side of the connection in /proc/net/tcp (proc(5))."""
    server = urlsplit(stack.proxy.url).port
    ends = [f":{server:04X}", f":{port:04X}"]
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()]
    return next((line for line in lines if [line[1][-5:], line[2][-5:]] == ends), None)


def _files(pid: int) -> Iterator[str]:
    for file in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            yield os.readlink(file)


def head(secret: str | None, length: int, *lines: str, path: str = CHAT, kind: str = JSON) -> bytes:
    """Of a POST with a body."""
    given = [f"POST {path} HTTP/1.1", "host: x", f"content-type: {kind}", f"content-length: {length}", *lines]
    if secret is not None:
        given.append(f"authorization: Bearer {secret}")
    return "\r\n".join([*given, "", ""]).encode()


def request(secret: str | None, *lines: str, path: str = CHAT, **fields: Any) -> bytes:
    """A chat; `lines` are more headers."""
    body = json.dumps(chat(**fields)).encode()
    return head(secret, len(body), *lines, path=path) + body


def ask(stack: Stack, source: int, secret: str | None, *lines: str, **fields: Any) -> Answered:
    """A chat with this process, on a connection of its own."""
    return sent(stack, source, request(secret, *lines, **fields))


def sent(stack: Stack, source: int, data: bytes) -> Answered:
    """What this process answers to it."""
    wire = wire_to(stack, source)
    wire.send(data)
    answered = Answered(*wire.answer())
    wire.close()
    return answered
