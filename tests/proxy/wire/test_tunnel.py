"""WebSockets: a tunnel once the engine has agreed."""

from __future__ import annotations

from proxy.wire.server import PIPELINED_BYTES
from tests.proxy.hand_engine import HandEngine, Wire
from tests.proxy.stack import Stack
from tests.proxy.wire.clients import client

ASK = (
    b"GET /v1/realtime?model=raw HTTP/1.1\r\nhost: h\r\nconnection: Upgrade\r\nupgrade: websocket\r\n"
    b"sec-websocket-key: x\r\nsec-websocket-version: 13\r\n\r\n"
)
AGREED = b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-accept: y\r\n\r\n"  # fmt: skip  # noqa: E501


def opened(wire: Wire, engine: HandEngine, early: bytes = b"") -> Wire:
    """The engine's end of a tunnel."""
    wire.send(ASK + early)
    one = engine.next()
    head = one.until(b"\r\n\r\n")
    for line in (
        b"\r\nconnection: Upgrade\r\n",
        b"\r\nupgrade: websocket\r\n",
        b"\r\nsec-websocket-key: x\r\n",
    ):
        assert line in head
    return one


def test_after_an_upgrade_bytes_pass_both_ways_until_the_engine_closes(
    proxy: Stack, engine: HandEngine
) -> None:
    with client(proxy) as wire:
        one = opened(wire, engine, b"early")
        one.send(AGREED + b"\x81\x02hi")
        assert wire.until(b"\r\n\r\n") == AGREED
        assert wire.exactly(4) == b"\x81\x02hi"
        assert one.exactly(5) == b"early"
        big = bytes(range(256)) * 4 * (PIPELINED_BYTES // 256)
        wire.send(big)
        assert one.exactly(len(big)) == big
        one.send(big)
        assert wire.exactly(len(big)) == big
        one.close()
        assert wire.is_closed()


def test_a_client_that_leaves_a_tunnel_closes_it(proxy: Stack, engine: HandEngine) -> None:
    with client(proxy) as wire:
        one = opened(wire, engine)
        one.send(AGREED)
        wire.until(b"\r\n\r\n")
    assert one.is_closed()
    one.close()


def test_an_engine_that_does_not_agree_says_so_itself(proxy: Stack, engine: HandEngine) -> None:
    with client(proxy) as wire:
        one = opened(wire, engine)
        one.send(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno")
        status, headers, body = wire.answer()
        assert (status, headers["connection"], body) == (403, "close", b"no")
        assert wire.is_closed()
        one.close()


def test_another_upgrade_is_passed_over(proxy: Stack, engine: HandEngine) -> None:
    # as a server may (RFC 9110, 7.8): the answer comes in the protocol spoken now
    with client(proxy) as wire:
        wire.send(b"GET /v1/files HTTP/1.1\r\nhost: h\r\nconnection: Upgrade\r\nupgrade: h2c\r\n\r\n")
        one = engine.next()
        assert b"upgrade" not in one.until(b"\r\n\r\n").lower()
        one.close()
