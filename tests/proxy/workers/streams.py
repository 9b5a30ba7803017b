"""Streams over plain sockets, of which every byte is seen."""

from __future__ import annotations

import json
import socket
from select import select

from tests.proxy.stack import CHAT, chat

END = b"0\r\n\r\n"


class RawStream:
    """A chat, streamed, with usage."""

    def __init__(self, url: str, max_tokens: int = 6) -> None:
        host, port = url.removeprefix("http://").split(":")
        asked = chat(stream=True, stream_options={"include_usage": True}, max_tokens=max_tokens)
        body = json.dumps(asked).encode()
        self.socket = socket.create_connection((host, int(port)))
        head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        self.socket.sendall(head.encode() + b"content-length: %d\r\n\r\n" % len(body) + body)
        self.got = b""
        self.closed = False
        """By the other side."""

    def read(self) -> bytes:
        """All that has come."""
        while not self.closed and select([self.socket], [], [], 0)[0]:
            try:
                piece = self.socket.recv(65_536)
            except ConnectionResetError:
                piece = b""
            self.got += piece
            self.closed = not piece
        return self.got

    @property
    def broken(self) -> bool:
        """Whether the connection was closed before the answer's end."""
        self.read()
        return self.closed and not self.got.endswith(END)
