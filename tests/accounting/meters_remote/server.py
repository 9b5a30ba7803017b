"""A small HTTP server on this machine, on a port or a Unix socket, with faults to be switched on."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer
from typing import Any, Literal
from urllib.parse import parse_qsl, urlsplit

Fault = Literal["garbage", "slow", "dripping", "broken", "error"]


@dataclass
class Reply:
    """An answer: whole, or `stream`ed in pieces."""

    status: int
    body: bytes = b""
    kind: str = "application/json"
    stream: Iterator[bytes] | None = None


@dataclass
class Question:
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    """By lower-case name."""


class _UnixServer(ThreadingMixIn, UnixStreamServer):
    daemon_threads = True


class Server:
    """Calls `answer` for each question. `stop` and `start` again: the same port, all connections cut."""

    def __init__(self, answer: Callable[[Question], Reply], unix: Path | None = None) -> None:
        self._answer, self._unix = answer, unix
        self._port = 0
        self._open: set[socket.socket] = set()
        self.fault: Fault | None = None
        self.slow_for: Callable[[], None] = lambda: time.sleep(0.6)
        """What a slow answer takes."""
        self.asked: list[Question] = []
        self.start()

    @property
    def url(self) -> str:
        return f"unix:{self._unix}" if self._unix is not None else f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                outer._open.add(self.connection)

            def finish(self) -> None:
                outer._open.discard(self.connection)
                try:
                    super().finish()
                except OSError:
                    self.close_connection = True  # the other end is gone

            def handle(self) -> None:
                try:
                    super().handle()
                except OSError:
                    self.close_connection = True

            def do_GET(self) -> None:
                outer._serve(self)

            def address_string(self) -> str:
                return "local"

            def log_message(self, format: str, *args: Any) -> None:
                """Not a word."""

        if self._unix is not None:
            self._unix.unlink(missing_ok=True)
            self._server: Any = _UnixServer(str(self._unix), Handler)
        else:
            self._server = ThreadingHTTPServer(("127.0.0.1", self._port), Handler)
            self._port = self._server.server_address[1]
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        for one in list(self._open):
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                self._open.discard(one)  # closed by itself in the meantime

    def _serve(self, handler: BaseHTTPRequestHandler) -> None:
        parts = urlsplit(handler.path)
        headers = {name.lower(): value for name, value in handler.headers.items()}
        question = Question(parts.path, dict(parse_qsl(parts.query)), headers)
        self.asked.append(question)
        reply = self._answer(question)
        fault = self.fault
        if fault == "garbage":
            reply = Reply(200, b"\xff<html>not what you want")
        elif fault == "error":
            reply = Reply(500, b"{}")
        elif fault == "slow":
            self.slow_for()
        elif fault == "broken":
            handler.connection.shutdown(socket.SHUT_RDWR)
            handler.close_connection = True
            return
        handler.send_response(reply.status)
        handler.send_header("content-type", reply.kind)
        if reply.stream is not None:
            handler.send_header("connection", "close")
            handler.end_headers()
            for piece in reply.stream:
                handler.wfile.write(piece)
            handler.close_connection = True
            return
        handler.send_header("content-length", str(len(reply.body)))
        handler.end_headers()
        if fault == "dripping":
            for i in range(len(reply.body)):
                handler.wfile.write(reply.body[i : i + 1])
                time.sleep(0.05)
        else:
            handler.wfile.write(reply.body)
