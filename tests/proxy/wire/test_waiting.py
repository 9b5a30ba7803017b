"""Who is waited for, and for how long: clients that are slow, quiet or gone."""

from __future__ import annotations

import select

import pytest

from tests.proxy.hand_engine import HandEngine
from tests.proxy.raw_engine import chunk, stream_head
from tests.proxy.stack import Stack, until
from tests.proxy.wire.clients import BODY, client, error_message, post


@pytest.mark.parametrize("begun", [b"", b"GET /v1/mod", b"GET /v1/models HTTP/1.1\r\na: b\r\n"])
def test_a_head_that_does_not_come_is_not_waited_for(hurried: Stack, begun: bytes) -> None:
    with client(hurried) as wire:
        wire.send(begun)
        assert wire.rest().startswith(b"HTTP/1.1 408" if begun else b"")


def test_a_head_that_drips_is_not_waited_for_either(hurried: Stack) -> None:
    with client(hurried) as wire:
        wire.send(b"GET /v1/models HTTP/1.1\r\n")

        def answered() -> bool:
            wire.send(b"a: b\r\n")
            return bool(select.select([wire.socket], [], [], 0)[0])

        until(answered, "an answer before the head is whole")
        assert wire.rest().startswith(b"HTTP/1.1 408")


def test_a_body_that_does_not_come_is_not_waited_for(hurried: Stack) -> None:
    with client(hurried) as wire:
        wire.send(post(b"{", "content-length: 10"))
        status, _, body = wire.answer()
        assert (status, "body did not come" in error_message(body)) == (408, True)
        assert wire.is_closed()


def test_an_idle_connection_is_closed(hurried: Stack) -> None:
    with client(hurried) as wire:
        wire.send(b"GET /health HTTP/1.1\r\n\r\n")
        assert wire.answer()[0] == 200
        assert wire.is_closed()


def test_a_request_that_takes_too_long_in_all_is_cut_off(hurried: Stack, engine: HandEngine) -> None:
    with client(hurried) as wire:
        wire.send(post())
        one = engine.next()
        one.until(BODY)
        status, _, body = wire.answer()
        assert (status, "longer than" in error_message(body)) == (504, True)
        assert one.is_closed()


def test_a_client_that_has_stopped_reading_is_let_go(hurried: Stack, engine: HandEngine) -> None:
    with client(hurried, receive_buffer=4096) as wire:
        wire.send(post(BODY, "x-request-id: stuck"))
        one = engine.next()
        one.until(BODY)
        one.send(stream_head())
        one.socket.settimeout(0.2)

        def let_go() -> bool:
            try:
                one.send(chunk(b"data: " + b"x" * 500_000 + b"\n\n"))
            except TimeoutError:
                return False
            except (BrokenPipeError, ConnectionResetError):
                return True
            return False

        until(let_go, "the engine's connection is closed")
        record = hurried.ended("stuck", "aborted", 200)
        assert record["status"] == "aborted"
