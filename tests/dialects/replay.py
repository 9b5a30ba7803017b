"""A server that answers in a dialect: that of the model which the request names. One request per connection.

With the header `x-cut: bytes` the answer goes out byte by byte, each once the other side has read the one
before: whoever reads it meets every possible cut.
"""

from __future__ import annotations

import json
import socket
import socketserver
import struct
import threading
import time
from typing import Self

from tests.dialects.dialects import DIALECTS, Request

READ_S = 10.0
# From Linux's netlink.h, sock_diag.h and inet_diag.h.
NETLINK_SOCK_DIAG, SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST = 4, 20, 1
RQUEUE_AT = 4 + 48 + 4
"""Where a socket's receive queue is told: behind four bytes, its ends, and a time."""
BY_NAME = {dialect.name: dialect for dialect in DIALECTS}


class Replay:
    """Use as a context manager; `requests` are those that were answered in a dialect."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.url = ""

    def __enter__(self) -> Self:
        outer = self

        class Handler(socketserver.StreamRequestHandler):
            disable_nagle_algorithm = True

            def handle(self) -> None:
                outer._serve(self)

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _serve(self, connection: socketserver.StreamRequestHandler) -> None:
        line = connection.rfile.readline().decode("latin-1").split()
        if not line:
            return
        headers: dict[str, str] = {}
        while text := connection.rfile.readline().decode("latin-1").strip():
            name, value = text.split(":", 1)
            headers[name.lower()] = value.strip()
        content = connection.rfile.read(int(headers.get("content-length", 0)))
        method, path = line[0], line[1]
        if method == "GET":
            models = {"object": "list", "data": [{"id": name, "object": "model"} for name in BY_NAME]}
            body = json.dumps(models).encode() if path == "/v1/models" else b""
            status = "200 OK" if path in ("/v1/models", "/health") else "404 Not Found"
            head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
            connection.wfile.write(f"{head}connection: close\r\n\r\n".encode() + body)
            return
        request = Request(path, headers, json.loads(content))
        self.requests.append(request)
        answer = bytes(BY_NAME[request.body["model"]].answer(request))
        if headers.get("x-cut") != "bytes":
            connection.wfile.write(answer)
            return
        with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, NETLINK_SOCK_DIAG) as diag:
            for place in range(len(answer)):
                connection.wfile.write(answer[place : place + 1])
                _until_read(connection.connection, diag)


def _until_read(connection: socket.socket, diag: socket.socket) -> None:
    """Wait until the other side, a process on this machine, has read all that was sent: until the receive
    queue of its socket is empty, as the kernel tells (Linux: sock_diag(7), a lookup of one socket).

    Gives up when it is closed; raises TimeoutError at the deadline.
    """
    (host, ours), (_, theirs) = connection.getsockname(), connection.getpeername()
    address = socket.inet_aton(host)
    ends = struct.pack("!HH16s16s", theirs, ours, address, address)
    ask = struct.pack("=BBBBI", socket.AF_INET, socket.IPPROTO_TCP, 0, 0, 0xFFFF_FFFF) + ends
    ask += struct.pack("=III", 0, 0xFFFF_FFFF, 0xFFFF_FFFF)  # any interface, any cookie
    message = struct.pack("=IHHII", 16 + len(ask), SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST, 1, 0) + ask
    deadline = time.monotonic() + READ_S
    while time.monotonic() < deadline:
        diag.send(message)
        told = diag.recv(4096)
        if struct.unpack_from("=H", told, 4)[0] != SOCK_DIAG_BY_FAMILY:
            return  # an error: there is no such socket any more
        if struct.unpack_from("=I", told, 16 + RQUEUE_AT)[0] == 0:
            return
    raise TimeoutError("the other side does not read")
