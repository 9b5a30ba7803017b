"""Clients' connections, as bytes: what is refused, in which order answers come, who is waited for."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest

from tests.proxy.hand_engine import DEADLINE_S, HandEngine
from tests.proxy.raw_engine import chunk, stream_head
from tests.proxy.stack import Stack
from tests.proxy.wire.clients import BODY, CHUNKED, KEPT, SAID, client, error_message, post
from tests.proxy.wire.conftest import BODY_MB, HEAD_KB


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (post(BODY, "content-length: 5", "transfer-encoding: chunked"), 400),
        (post(BODY, "transfer-encoding: chunked", "content-length: 5"), 400),
        (post(BODY, "content-length: 5", "content-length: 6"), 400),
        (post(BODY, "content-length: 5", "content-length: 5"), 400),
        (post(BODY, "content-length: +5"), 400),
        (post(BODY, "content-length: 5, 5"), 400),
        (post(BODY, "transfer-encoding: gzip, chunked"), 501),
        (post(BODY, "transfer-encoding: chunked, identity"), 400),
        (post(BODY, "transfer-encoding: xchunked"), 501),
        (post(BODY, "transfer-encoding : chunked"), 400),
        (post(b"0x5\r\nabcde\r\n0\r\n\r\n", "transfer-encoding: chunked"), 400),
        (post(b"-1\r\n\r\n", "transfer-encoding: chunked"), 400),
        (post(b"5\r\nabcdefg\r\n0\r\n\r\n", "transfer-encoding: chunked"), 400),
        (post(b"fffffffffffffffff\r\n", "transfer-encoding: chunked"), 400),
        (post(b"0\r\n\r\n", "transfer-encoding: chunked", version="1.0"), 400),
        (post(BODY, "content-length: 5", "host: another"), 400),
        (post(BODY, "x-folded: a", " b"), 400),
        (post(BODY, "x-nul: a\x00b"), 400),
        (post(BODY, "x-name with space: 1"), 400),
        (post(BODY).replace(b"\r\n", b"\n"), 400),
        (b"GET / HTTP/9.9\r\n\r\n", 400),
        (b"GET /v1/models HTTP/2.0\r\n\r\n", 505),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (b"BREW /v1/coffee HTTP/1.1\r\n\r\n", 400),
        (post(BODY, "connection: upgrade", "upgrade: h2c"), 501),
        (b"CONNECT example.com:443 HTTP/1.1\r\nhost: example.com\r\n\r\n", 501),
    ],
)
def test_what_two_servers_could_read_in_two_ways_is_refused(
    proxy: Stack, request_bytes: bytes, status: int
) -> None:
    with client(proxy) as wire:
        wire.send(request_bytes)
        found, headers, body = wire.answer()
        assert (found, headers["connection"]) == (status, "close")
        assert error_message(body)
        assert wire.is_closed()


def test_a_refused_request_hides_no_second_one(proxy: Stack, engine: HandEngine) -> None:
    hidden = b"0\r\n\r\n" + post(b"hidden")
    with client(proxy) as wire:
        wire.send(post(hidden, f"content-length: {len(hidden)}", "transfer-encoding: chunked"))
        assert wire.answer()[0] == 400
        assert wire.rest() == b""
    with client(proxy) as wire:  # the engine's next request is this one
        wire.send(post())
        one = engine.next()
        assert b"hidden" not in one.until(BODY)
        one.send(KEPT)
        assert wire.answer()[0] == 200
        one.close()


@pytest.mark.parametrize("where", ["value", "name", "path", "many"])
def test_a_head_that_is_too_large_is_a_431(proxy: Stack, where: str) -> None:
    large = b"x" * int(HEAD_KB * 1000)
    heads = {
        "value": b"GET /v1/models HTTP/1.1\r\na: " + large + b"\r\n\r\n",
        "name": b"GET /v1/models HTTP/1.1\r\n" + large,
        "path": b"GET /v1/" + large,
        "many": b"GET /v1/models HTTP/1.1\r\n" + b"a: b\r\n" * 4000,
    }
    with client(proxy) as wire:
        wire.send(heads[where])
        status, headers, body = wire.answer()
        assert (status, headers["connection"]) == (431, "close")
        assert str(int(HEAD_KB * 1000)) in error_message(body)


def test_a_body_that_is_announced_too_large_is_refused_before_it_is_sent(proxy: Stack) -> None:
    with client(proxy) as wire:
        wire.send(post(b"", f"content-length: {int(BODY_MB * 1e6) + 1}", "expect: 100-continue"))
        status, headers, _ = wire.answer()
        assert (status, headers["connection"]) == (413, "close")


def test_the_client_is_told_to_continue_and_the_engine_does_not_hear_of_it(
    proxy: Stack, engine: HandEngine
) -> None:
    with client(proxy) as wire:
        wire.send(post(b"", f"content-length: {len(BODY)}", "expect: 100-continue"))
        assert wire.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        wire.send(BODY)
        one = engine.next()
        assert b"expect" not in one.until(BODY)
        one.send(KEPT)
        assert wire.answer()[0] == 200
        one.close()


def test_pipelined_requests_are_answered_in_order(proxy: Stack, engine: HandEngine) -> None:
    own = b"GET /health HTTP/1.1\r\nhost: h\r\n\r\n"
    with client(proxy) as wire:
        wire.send(
            post(b'{"model":"first"}') + own + post(b'{"model":"second"}') + b"GET /nothing HTTP/1.1\r\n\r\n"
        )
        one = engine.next()
        one.until(b'{"model":"first"}')
        one.send(stream_head() + chunk(b"data: 1\n\n"))
        assert wire.until(b"data: 1\n\n\r\n").startswith(b"HTTP/1.1 200")
        one.send(chunk(b"data: [DONE]\n\n") + chunk(b""))
        assert wire.until(b"0\r\n\r\n").endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
        assert json.loads(wire.answer()[2]) == {"status": "ok"}
        one.until(b'{"model":"second"}')  # over the same connection
        one.send(KEPT)
        assert wire.answer()[2] == SAID
        assert wire.answer()[0] == 404
        one.close()


def test_a_fault_after_a_good_request_does_not_take_its_answer_away(proxy: Stack, engine: HandEngine) -> None:
    with client(proxy) as wire:
        wire.send(post() + b"nonsense\r\n\r\n")
        one = engine.next()
        one.until(BODY)
        one.send(KEPT)
        assert wire.answer()[2] == SAID
        assert wire.answer()[0] == 400
        assert wire.is_closed()
        one.close()


def test_many_pipelined_requests_are_not_read_ahead_without_bound(proxy: Stack, engine: HandEngine) -> None:
    with client(proxy) as wire:
        wire.socket.settimeout(1.0)
        wire.send(post())
        one = engine.next()
        one.until(BODY)
        with pytest.raises(TimeoutError):
            wire.send(post(b" " * 65_536, path="/health") * 800)
        one.send(KEPT)
        assert wire.answer()[2] == SAID
        assert wire.answer()[0] == 405
        one.close()


def test_who_pipelines_and_does_not_read_is_not_answered_without_bound(
    proxy: Stack, engine: HandEngine
) -> None:
    answer = b'{"choices":[' + b" " * 1_000_000 + b"]}"
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(answer)
    with client(proxy, receive_buffer=4096) as wire:
        wire.send(post() * 50)
        one = engine.next()
        asked = 0
        one.socket.settimeout(1.0)
        with suppress(TimeoutError):
            while asked < 50:
                one.until(BODY)
                asked += 1
                one.send(head + answer)
        assert asked < 20
        one.socket.settimeout(DEADLINE_S)
        for number in range(50):  # and gets all of it, in its own time
            if number >= asked:
                one.until(BODY)
                one.send(head + answer)
            assert wire.answer()[2] == answer
        one.close()


def test_the_names_of_codings_have_no_case(proxy: Stack, engine: HandEngine) -> None:
    with client(proxy) as wire:
        wire.send(post(chunk(BODY) + chunk(b""), "Transfer-Encoding: Chunked"))
        one = engine.next()
        one.until(BODY)
        one.send(KEPT.replace(b"application/json", b"Application/JSON"))
        status, headers, body = wire.answer()
        assert (status, headers["content-type"], body) == (200, "Application/JSON", SAID)
        one.close()


def test_http_1_0_gets_no_chunks_and_its_connection_is_closed(proxy: Stack, engine: HandEngine) -> None:
    with client(proxy) as wire:
        wire.send(post(BODY, "connection: keep-alive", version="1.0"))
        one = engine.next()
        assert b" HTTP/1.1\r\n" in one.until(BODY)
        one.send(stream_head() + chunk(b"data: 1\n\n") + chunk(b"data: [DONE]\n\n") + chunk(b""))
        head, _, body = wire.rest().partition(b"\r\n\r\n")
        assert b"transfer-encoding" not in head
        assert b"connection: close" in head
        assert body == b"data: 1\n\ndata: [DONE]\n\n"
        one.close()


def test_a_connection_that_the_client_wants_closed_is(proxy: Stack, engine: HandEngine) -> None:
    with client(proxy) as wire:
        wire.send(post(BODY, "connection: close"))
        one = engine.next()
        assert b"connection" not in one.until(BODY)
        one.send(KEPT)
        status, headers, body = wire.answer()
        assert (status, headers["connection"], body) == (200, "close", SAID)
        assert wire.is_closed()
        one.close()


def test_nonsense_behind_a_refusal_is_nothing_to_answer(proxy: Stack) -> None:
    with client(proxy) as wire:
        wire.send(post(chunk(b"x"), CHUNKED, "transfer-encoding: gzip"))
        assert wire.answer()[0] in (400, 501)
        wire.send(b"nonsense\r\n" * 100)
        assert wire.rest() == b""
    assert "write_eof" not in proxy.proxy.log.read_text()


@pytest.mark.parametrize(
    "path", ["/v1/../metrics", "/v1/files/..", "/v1/%2e%2e/metrics", "/v1/a/..%2f..%2fmetrics"]
)
def test_a_path_that_climbs_goes_to_no_engine(proxy: Stack, path: str) -> None:
    with client(proxy) as wire:
        wire.send(f"GET {path} HTTP/1.1\r\nhost: h\r\n\r\n".encode())
        assert wire.answer()[0] == 404


def test_a_head_gets_the_length_and_no_body(proxy: Stack, engine: HandEngine) -> None:
    with client(proxy) as wire:
        wire.send(b"HEAD /v1/files/x HTTP/1.1\r\nhost: h\r\n\r\n")
        one = engine.next()
        one.until(b"\r\n\r\n")
        one.send(b"HTTP/1.1 200 OK\r\ncontent-length: 1234\r\n\r\n")
        assert b"content-length: 1234\r\n" in wire.until(b"\r\n\r\n")
        wire.send(b"GET /health HTTP/1.1\r\n\r\n")  # nothing stands between
        assert wire.answer()[0] == 200
        one.close()


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
def test_answers_without_a_body_have_no_framing(proxy: Stack, engine: HandEngine, status: str) -> None:
    with client(proxy) as wire:
        wire.send(b"DELETE /v1/files/x HTTP/1.1\r\nhost: h\r\n\r\n")
        one = engine.next()
        one.until(b"\r\n\r\n")
        one.send(f"HTTP/1.1 {status}\r\nx: 1\r\n\r\n".encode())
        head = wire.until(b"\r\n\r\n")
        assert head.startswith(f"HTTP/1.1 {status}\r\n".encode())
        assert b"transfer-encoding" not in head
        assert b"content-length" not in head
        wire.send(b"GET /health HTTP/1.1\r\n\r\n")
        assert wire.answer()[0] == 200
        one.close()


def test_headers_keep_their_order_and_their_doubles_and_those_of_the_hop_stay_here(
    proxy: Stack, engine: HandEngine
) -> None:
    sent = ["b: 1", "a: 2", "b: 3", "connection: x-hop, keep-alive", "x-hop: no", "te: trailers",
            "keep-alive: 5", "proxy-authorization: no", "accept-encoding: br"]  # fmt: skip
    with client(proxy) as wire:
        wire.send(post(BODY, *sent, path="/v1/chat/completions?a=%20b"))
        one = engine.next()
        lines = one.until(BODY).split(b"\r\n")
        assert lines[0] == b"POST /v1/chat/completions?a=%20b HTTP/1.1"
        assert lines[1:6] == [b"host: h", b"content-type: application/json", b"b: 1", b"a: 2", b"b: 3"]
        assert lines[6].startswith(b"x-request-id: ")
        assert lines[7:] == [b"content-length: %d" % len(BODY), b"", BODY]
        one.send(
            b"HTTP/1.1 200 Quite OK\r\nset-cookie: a\r\nx: 1\r\nset-cookie: b\r\nconnection: y\r\ny: no\r\n"
            b"content-length: 0\r\n\r\n"
        )
        lines = wire.until(b"\r\n\r\n").split(b"\r\n")
        assert lines[:4] == [b"HTTP/1.1 200 Quite OK", b"set-cookie: a", b"x: 1", b"set-cookie: b"]
        assert [line.partition(b":")[0] for line in lines[4:]] == [
            b"x-request-id",
            b"content-length",
            b"",
            b"",
        ]
        one.close()


def test_trailers_pass(proxy: Stack, engine: HandEngine) -> None:
    with client(proxy) as wire:
        wire.send(b"GET /v1/files/x HTTP/1.1\r\nhost: h\r\n\r\n")
        one = engine.next()
        one.until(b"\r\n\r\n")
        one.send(stream_head("text/plain") + chunk(b"all") + b"0\r\nx-sum: 3\r\n\r\n")
        assert wire.until(b"x-sum: 3\r\n\r\n").endswith(b"3\r\nall\r\n0\r\nx-sum: 3\r\n\r\n")
        one.close()
