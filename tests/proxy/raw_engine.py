"""An engine that answers exactly the bytes a test gives it, and shows the bytes it was sent.

For answers that no sound server would give: half chunks, silence, odd headers. One thread per connection.
"""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

MODEL = "raw"

End = Literal["close", "hold"]


@dataclass
class Received:
    """One request as it came in; header names in lower case."""

    line: str
    headers: list[tuple[str, str]]
    body: bytes

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key == name]


@dataclass
class Script:
    """What the next POST is answered: the pieces, then `close`, or `hold`: silence until the client leaves.

    Each piece but the first waits for `proceed`, if one is given.
    """

    pieces: Sequence[bytes]
    end: End = "close"
    proceed: threading.Semaphore | None = None


@dataclass
class RawEngine:
    """Use as a context manager. GET /v1/models works; POSTs get the scripts, one after the other."""

    scripts: list[Script] = field(default_factory=list)
    received: list[Received] = field(default_factory=list)
    url: str = ""

    def answer(self, *pieces: bytes, end: End = "close", proceed: threading.Semaphore | None = None) -> None:
        self.scripts.append(Script(pieces, end, proceed))

    def __enter__(self) -> RawEngine:
        outer = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                outer.serve(self)

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def serve(self, connection: socketserver.StreamRequestHandler) -> None:
        """One request per connection."""
        request = _read(connection)
        if request is None:
            return
        if request.line.startswith("GET /v1/models"):
            models = json.dumps({"object": "list", "data": [{"id": MODEL, "object": "model"}]}).encode()
            connection.wfile.write(whole(models))
            return
        if request.line.startswith("GET /health"):
            connection.wfile.write(whole(b"", status="404 Not Found"))
            return
        self.received.append(request)
        script = self.scripts.pop(0)
        for number, piece in enumerate(script.pieces):
            if number and script.proceed is not None:
                script.proceed.acquire()
            connection.wfile.write(piece)
        if script.end == "hold":
            connection.rfile.read(1)


def _read(connection: socketserver.StreamRequestHandler) -> Received | None:
    line = connection.rfile.readline().decode("latin-1").strip()
    if not line:
        return None
    headers = []
    while text := connection.rfile.readline().decode("latin-1").strip():
        name, value = text.split(":", 1)
        headers.append((name.lower(), value.strip()))
    length = int(dict(headers).get("content-length", 0))
    return Received(line, headers, connection.rfile.read(length))


def whole(
    body: bytes, kind: str = "application/json", status: str = "200 OK", headers: Sequence[str] = ()
) -> bytes:
    """A complete answer."""
    lines = [f"HTTP/1.1 {status}", f"content-type: {kind}", f"content-length: {len(body)}", *headers]
    return "\r\n".join([*lines, "connection: close", "", ""]).encode("latin-1") + body


def stream_head(kind: str = "text/event-stream; charset=utf-8") -> bytes:
    """The head of a chunked answer."""
    return f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ntransfer-encoding: chunked\r\n\r\n".encode()


def chunk(data: bytes) -> bytes:
    """One chunk of it; an empty one ends it."""
    return b"%x\r\n%b\r\n" % (len(data), data)
