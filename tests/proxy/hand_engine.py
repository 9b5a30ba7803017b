"""An engine played by the test itself, byte by byte, on connections that stay open; and a client likewise."""

from __future__ import annotations

import json
import queue
import socket
import threading
from contextlib import suppress
from urllib.parse import urlsplit

from tests.proxy.raw_engine import MODEL, whole

DEADLINE_S = 10.0


class Wire:
    """One end of a connection. Reads fail after DEADLINE_S."""

    def __init__(self, connection: socket.socket, got: bytes = b"") -> None:
        self.socket, self.got = connection, got
        connection.settimeout(DEADLINE_S)

    @classmethod
    def to(cls, url: str, *, receive_buffer: int | None = None) -> Wire:
        address = urlsplit(url)
        one = socket.socket()
        if receive_buffer is not None:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        one.connect((address.hostname, address.port))
        return cls(one)

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def until(self, mark: bytes) -> bytes:
        """Everything up to and with `mark`."""
        while mark not in self.got:
            more = self.socket.recv(65_536)
            assert more, f"closed after {self.got[-500:]!r}, before {mark!r}"
            self.got += more
        at = self.got.index(mark) + len(mark)
        found, self.got = self.got[:at], self.got[at:]
        return found

    def exactly(self, size: int) -> bytes:
        while len(self.got) < size:
            more = self.socket.recv(65_536)
            assert more, f"closed after {len(self.got)} of {size} bytes"
            self.got += more
        found, self.got = self.got[:size], self.got[size:]
        return found

    def rest(self) -> bytes:
        """What comes until the other side closes, or resets."""
        found, self.got = bytearray(self.got), b""
        with suppress(ConnectionResetError):
            while more := self.socket.recv(65_536):
                found += more
        return bytes(found)

    def answer(self) -> tuple[int, dict[str, str], bytes]:
        """One answer: status, headers, body; of a length or in chunks."""
        head = self.until(b"\r\n\r\n").decode("latin-1")
        line, *lines = head.strip().split("\r\n")
        headers = {name.lower(): value for name, value in (one.split(": ", 1) for one in lines)}
        body = b""
        if headers.get("transfer-encoding") == "chunked":
            while size := int(self.until(b"\r\n"), 16):
                body += self.exactly(size)
                self.until(b"\r\n")
            self.until(b"\r\n")
        else:
            body = self.exactly(int(headers.get("content-length", 0)))
        return int(line.split(" ")[1]), headers, body

    def is_closed(self) -> bool:
        """Whether the other side has closed, once it does or at the deadline."""
        try:
            return self.socket.recv(1) == b""
        except ConnectionResetError:
            return True
        except TimeoutError:
            return False

    def close(self) -> None:
        self.socket.close()


class HandEngine:
    """A context manager. Looks at its health and models are answered, and what a browser asks beforehand;
    everything else waits in `next`."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._waiting: queue.Queue[Wire] = queue.Queue()

    def __enter__(self) -> HandEngine:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        while not self._waiting.empty():
            self._waiting.get().close()

    def next(self) -> Wire:
        """The next connection with a request on it; the request is still to be read."""
        return self._waiting.get(timeout=DEADLINE_S)

    def _accept(self) -> None:
        with suppress(OSError):  # closed: the end
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._sort, args=(connection,), daemon=True).start()

    def _sort(self, connection: socket.socket) -> None:
        wire = Wire(connection)
        with suppress(ConnectionError, TimeoutError):
            first = connection.recv(65_536)
            if first.startswith((b"GET /v1/models ", b"GET /health ", b"GET /metrics ")):
                models = {"object": "list", "data": [{"id": MODEL, "object": "model"}]}
                found = first.startswith(b"GET /v1/models ")
                wire.send(whole(json.dumps(models).encode()) if found else whole(b"", status="404 Not Found"))
                wire.close()
            elif first.startswith(b"OPTIONS "):  # may go to any backend
                wire.send(whole(b""))
                wire.close()
            elif first:
                wire.got = first
                self._waiting.put(wire)
