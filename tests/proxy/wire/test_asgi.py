"""joulegate's own routes, as bytes on a connection."""

from __future__ import annotations

import pytest

from tests.proxy.raw_engine import chunk
from tests.proxy.stack import Stack
from tests.proxy.wire.clients import CHUNKED, client, error_message, post


def test_joulegates_own_routes_take_small_bodies_and_say_so(proxy: Stack) -> None:
    with client(proxy) as wire:
        wire.send(post(b" " * 1_000_001, path="/v1/keys"))
        status, headers, said = wire.answer()
        assert (status, headers["connection"], "1000000 bytes" in error_message(said)) == (413, "close", True)
        assert wire.is_closed()


@pytest.mark.parametrize(
    ("path", "status"), [("/v1/energy/nothing", 404), ("/v1/energy/books", 405), ("/v1/keys", 404)]
)
@pytest.mark.parametrize("expects", [(), ("expect: 100-continue",)], ids=["at once", "when told to"])
@pytest.mark.parametrize(
    ("framing", "body"), [((), b"{}"), ((CHUNKED,), chunk(b"{}") + chunk(b""))], ids=["whole", "chunks"]
)
def test_an_answer_waits_for_a_body_that_nobody_wants(
    proxy: Stack, path: str, status: int, expects: tuple[str, ...], framing: tuple[str, ...], body: bytes
) -> None:
    with client(proxy) as wire:
        for _ in range(2):  # the connection stays
            wire.send(post(body, *framing, *expects, path=path).removesuffix(body))
            if expects:
                assert wire.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            wire.send(body)
            answered, headers, _ = wire.answer()
            assert (answered, headers.get("connection")) == (status, None)
