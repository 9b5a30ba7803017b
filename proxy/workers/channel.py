"""Messages over a connected socket: a frame is its length (four bytes, big end first) and a list of them."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar, cast

import msgspec

log = logging.getLogger(__name__)

LENGTH_BYTES = 4

MOST_UNSENT_BYTES = 256 << 20
"""An other side that takes nothing while so much is waiting for it is given up."""

Heard = TypeVar("Heard")

_encode = msgspec.msgpack.Encoder().encode


class Channel(asyncio.Protocol, Generic[Heard]):
    """One end. `heard` gets the messages of each frame, `lost` is called once, when the other end is gone."""

    def __init__(self, kinds: object, heard: Callable[[list[Heard]], None], lost: Callable[[], None]) -> None:
        """`kinds`: the union of the messages that may come."""
        self._decode = msgspec.msgpack.Decoder(list[kinds]).decode  # type: ignore[valid-type]
        self._heard, self._lost = heard, lost
        self._transport = cast(asyncio.Transport, None)
        self._rest = bytearray()
        self.closed = asyncio.Event()

    @classmethod
    async def over(
        cls,
        pipe: socket.socket,
        kinds: Any,
        heard: Callable[[list[Heard]], None],
        lost: Callable[[], None],
    ) -> Channel[Heard]:
        """A channel over this end of a pair of sockets, which it closes in the end."""
        pipe.setblocking(False)
        loop = asyncio.get_running_loop()
        _, channel = await loop.create_unix_connection(lambda: cls(kinds, heard, lost), sock=pipe)
        return channel

    def say(self, messages: Sequence[msgspec.Struct]) -> None:
        """Send a frame. Nothing is sent once the other end is gone."""
        if self._transport.is_closing():
            return
        body = _encode(messages)
        self._transport.write(len(body).to_bytes(LENGTH_BYTES, "big") + body)
        if self._transport.get_write_buffer_size() > MOST_UNSENT_BYTES:
            log.error("the other process takes no messages: it is given up")
            self._transport.abort()

    def close(self) -> None:
        """Send what is waiting, then close; `closed` tells when."""
        self._transport.close()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        rest = self._rest
        rest += data
        while len(rest) >= LENGTH_BYTES:
            end = LENGTH_BYTES + int.from_bytes(rest[:LENGTH_BYTES], "big")
            if len(rest) < end:
                return
            messages = self._decode(memoryview(rest)[LENGTH_BYTES:end].tobytes())
            del rest[:end]
            self._heard(messages)

    def connection_lost(self, error: Exception | None) -> None:
        self.closed.set()
        self._lost()
