"""What a client's connection may take: bytes and seconds."""

from __future__ import annotations

from dataclasses import dataclass

from proxy.settings import Server

LINGER_S = 5.0
"""After an early answer what the client still sends is thrown away for so long: closing at once would reset
the connection, and the client might never see the answer (RFC 9112, 9.6)."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one listening server."""

    head_bytes: int
    body_bytes: int
    head_s: float
    body_idle_s: float
    keep_alive_s: float

    @classmethod
    def of(cls, server: Server) -> Limits:
        return cls(
            int(server.max_head_kb * 1000),
            int(server.max_body_mb * 1_000_000),
            server.head_s,
            server.body_idle_s,
            server.keep_alive_s,
        )
