"""What passes between a client and an engine while a request is under way."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import pytest

from benchmarks.rig.processes import memory_bytes
from tests.proxy.hand_engine import HandEngine, Wire
from tests.proxy.raw_engine import chunk, stream_head
from tests.proxy.stack import Stack, running
from tests.proxy.wire.clients import BODY, KEPT, SAID, client, post
from tests.proxy.wire.conftest import BODY_MB

FORM = "content-type: multipart/form-data; boundary=x"
EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}\n\n'


def form(size: int) -> bytes:
    field = b'--x\r\ncontent-disposition: form-data; name="model"\r\n\r\nraw\r\n'
    file = b'--x\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\n'
    return field + file + b"s" * size + b"\r\n--x--\r\n"


def upload(head: str, size: int, *more: str) -> bytes:
    lines = ["POST /v1/audio/transcriptions HTTP/1.1", "host: h", head, f"content-length: {size}", *more]
    return "\r\n".join([*lines, "", ""]).encode()


def fill(wire: Wire, piece: bytes) -> int:
    """Send the piece again and again until no more is taken; how many were sent whole."""
    for sent in range(1000):
        try:
            wire.send(piece)
        except TimeoutError:
            return sent
    raise AssertionError("everything was taken")


# Bodies


def test_a_large_form_goes_on_before_it_is_whole(proxy: Stack, engine: HandEngine) -> None:
    body = form(1_000_000)
    with client(proxy) as wire:
        wire.send(upload(FORM, len(body)) + body[:300_000])
        one = engine.next()
        head = one.until(b"\r\n\r\n")
        assert b"content-length: %d\r\n" % len(body) in head
        assert one.exactly(200_000) == body[:200_000]
        wire.send(body[300_000:])
        assert one.exactly(len(body) - 200_000) == body[200_000:]
        one.send(KEPT)
        assert wire.answer()[2] == SAID
        one.close()


def test_a_form_in_chunks_goes_on_in_chunks(proxy: Stack, engine: HandEngine) -> None:
    pieces = [b"s" * 100_000, b"t" * 50_000]
    with client(proxy) as wire:
        head = upload(FORM, 0).replace(b"content-length: 0", b"transfer-encoding: chunked")
        wire.send(head + chunk(pieces[0]))
        one = engine.next()
        assert b"transfer-encoding: chunked\r\n" in one.until(b"\r\n\r\n")
        wire.send(chunk(pieces[1]) + chunk(b""))
        body = b""
        while size := int(one.until(b"\r\n"), 16):
            body += one.exactly(size)
            one.until(b"\r\n")
        one.until(b"\r\n")
        assert body == b"".join(pieces)
        one.send(KEPT)
        assert wire.answer()[2] == SAID
        one.close()


def test_a_compressed_body_passes_untouched(proxy: Stack, engine: HandEngine) -> None:
    body = bytes(range(256)) * 4
    with client(proxy) as wire:
        wire.send(post(body, "content-encoding: gzip"))
        one = engine.next()
        assert b"content-encoding: gzip\r\n" in one.until(b"\r\n\r\n")
        assert one.exactly(len(body)) == body
        one.send(KEPT)
        assert wire.answer()[2] == SAID
        one.close()


def test_an_engine_that_takes_no_more_of_a_body_slows_its_client(proxy: Stack, engine: HandEngine) -> None:
    with client(proxy) as wire:
        wire.send(upload(FORM, 60_000_000))
        wire.socket.settimeout(1.0)
        with pytest.raises(TimeoutError):  # all that stands between: sockets and the little that is held
            wire.send(b"s" * 60_000_000)
        one = engine.next()
        one.until(b"\r\n\r\n")
        one.exactly(1_000_000)
    one.close()


def test_an_engine_that_stops_taking_a_body_is_not_waited_for(hurried: Stack, engine: HandEngine) -> None:
    with client(hurried) as wire:
        wire.send(upload(FORM, 60_000_000, "x-request-id: stuck-upload"))
        wire.socket.settimeout(0.3)
        with pytest.raises(TimeoutError):
            wire.send(b"s" * 60_000_000)
        record = hurried.ended("stuck-upload", "engine_error", 504)
        assert "took nothing of the request" in record["error"]
        engine.next().close()


def test_a_form_that_grows_too_large_is_cut_off_on_both_sides(proxy: Stack, engine: HandEngine) -> None:
    with client(proxy) as wire:
        head = upload(FORM, 0).replace(b"content-length: 0", b"transfer-encoding: chunked")
        wire.send(head + chunk(b"s" * 100_000))
        one = engine.next()
        one.until(b"\r\n\r\n")
        with ThreadPoolExecutor(1) as pool:
            taken = pool.submit(one.rest)
            for _ in range(int(BODY_MB)):
                wire.send(chunk(b"s" * 1_000_000))
            assert wire.answer()[0] == 413
            assert len(taken.result()) < BODY_MB * 1.1e6


def test_documents_that_come_one_by_one_go_on_so(proxy: Stack, engine: HandEngine) -> None:
    with client(proxy) as wire:
        wire.send(post())
        one = engine.next()
        one.until(BODY)
        one.send(stream_head("application/x-ndjson") + chunk(b'{"a":1}\n'))
        wire.until(b'{"a":1}\n\r\n')
        one.send(chunk(b""))
        wire.until(b"0\r\n\r\n")
        one.close()


def test_an_answer_before_the_body_is_whole_is_passed_on_and_ends_both_connections(
    proxy: Stack, engine: HandEngine
) -> None:
    with client(proxy) as wire:
        wire.send(upload(FORM, 1_000_000) + b"s" * 200_000)
        one = engine.next()
        one.until(b"\r\n\r\n")
        one.send(b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\nno")
        status, headers, body = wire.answer()
        assert (status, headers["connection"], body) == (413, "close", b"no")
        assert wire.is_closed()
        one.rest()


@pytest.mark.parametrize("rest", [b"no chunk\r\n", b""], ids=["what is no chunk", "nothing"])
def test_half_an_answer_is_followed_by_no_other(hurried: Stack, engine: HandEngine, rest: bytes) -> None:
    """The request's body turns bad, or stops, when its answer has begun."""
    with client(hurried) as wire:
        head = upload(FORM, 0).replace(b"content-length: 0", b"transfer-encoding: chunked")
        wire.send(head + chunk(b"s" * 100_000))
        one = engine.next()
        one.until(b"\r\n\r\n")
        one.send(stream_head() + chunk(EVENT))
        wire.until(EVENT + b"\r\n")
        wire.send(rest)
        assert wire.rest() == b""
        one.rest()


def test_an_answer_keeps_no_body_in_memory(proxy: Stack, engine: HandEngine) -> None:
    """Requests of 4 MB, answers of 4 MB; with the garbage collector's help alone hundreds of MB are held."""
    size = 4_000_000
    body = b'{"model":"raw","x":"' + b"x" * size + b'"}'
    said = b'{"choices":[],"x":"' + b"x" * size + b'"}'
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(said)
    before, one = 0, None
    with client(proxy) as wire:
        for number in range(44):
            wire.send(post(body))
            one = engine.next() if one is None else one
            one.until(b"\r\n\r\n")
            one.exactly(len(body))
            one.send(head + said)
            assert len(wire.answer()[2]) == len(said)
            if number == 4:
                before = memory_bytes(proxy.proxy.pid)
        assert memory_bytes(proxy.proxy.pid) - before < 10 * size


# Slow readers and those who leave


def test_a_slow_reader_slows_its_own_engine_and_nobody_else(proxy: Stack, engine: HandEngine) -> None:
    with client(proxy, receive_buffer=4096) as slow, client(proxy) as quick:
        slow.send(post(b'{"model":"raw","x":1}'))
        mine = engine.next()
        mine.until(b'{"model":"raw","x":1}')
        mine.send(stream_head())
        mine.socket.settimeout(1.0)
        piece = chunk(b"data: " + b"x" * 100_000 + b"\n\n")
        sent = fill(mine, piece)
        quick.send(post())
        other = engine.next()
        other.until(BODY)
        other.send(KEPT)
        assert quick.answer()[2] == SAID
        # The slow one gets all that was sent once it reads on.
        slow.until(b"\r\n\r\n")
        data = b"data: " + b"x" * 100_000 + b"\n\n"
        got = b""
        while len(got) < sent * len(data):
            got += slow.exactly(int(slow.until(b"\r\n"), 16))
            slow.until(b"\r\n")
        assert got == data * sent
        other.close()
        mine.close()


@pytest.mark.parametrize("begun", [True, False], ids=["in a stream", "before an answer"])
def test_a_client_that_leaves_takes_its_request_out_of_the_engine(
    proxy: Stack, engine: HandEngine, begun: bool
) -> None:
    request_id = f"left-{uuid4()}"
    with client(proxy) as wire:
        wire.send(post(BODY, f"x-request-id: {request_id}"))
        one = engine.next()
        one.until(BODY)
        if begun:
            one.send(stream_head() + chunk(EVENT) + chunk(EVENT))
            wire.until(EVENT)
            wire.until(EVENT)
    assert one.is_closed()
    record = proxy.ended(request_id, "aborted", 200 if begun else 499)
    assert record["completion_tokens"] == (2 if begun else None)
    assert (record["error"], record["tokens_from"]) == (
        "the client closed the connection",
        "stream" if begun else None,
    )
    one.close()


def test_a_client_that_leaves_while_its_body_is_read_leaves_nothing(proxy: Stack, engine: HandEngine) -> None:
    before = len(proxy.records())
    with client(proxy) as wire:
        wire.send(post(b"{", "content-length: 100"))
    with client(proxy) as wire:
        wire.send(post())
        one = engine.next()
        assert one.until(BODY).endswith(b"\r\n\r\n" + BODY)
        one.send(KEPT)
        wire.answer()
        one.close()
    assert len(proxy.stored(before + 1)) == before + 1


# Connections to the engine


def test_a_kept_connection_that_the_engine_closes_as_it_is_used_costs_nothing(
    proxy: Stack, engine: HandEngine
) -> None:
    with client(proxy) as wire:
        wire.send(post())
        one = engine.next()
        one.until(BODY)
        one.send(KEPT)
        assert wire.answer()[2] == SAID
        wire.send(post())
        one.until(BODY)  # over the kept connection, which closes without a word
        one.close()
        two = engine.next()
        two.until(BODY)
        two.send(KEPT)
        assert wire.answer()[2] == SAID
        two.close()


def test_what_would_leave_something_behind_is_not_sent_twice(proxy: Stack, engine: HandEngine) -> None:
    with client(proxy) as wire:
        wire.send(post())
        one = engine.next()
        one.until(BODY)
        one.send(KEPT)
        assert wire.answer()[2] == SAID
        wire.send(post(path="/v1/videos"))
        one.until(BODY)
        one.close()
        status, _, body = wire.answer()
        assert (status, json.loads(body)["error"]["code"]) == (502, "backend_failed")


def test_an_event_torn_at_every_byte_arrives_whole(proxy: Stack, engine: HandEngine) -> None:
    events = EVENT + b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
    with client(proxy) as wire:
        wire.send(post())
        one = engine.next()
        one.until(BODY)
        one.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in (
            stream_head() + b"".join(chunk(events[i : i + 1]) for i in range(len(events))) + chunk(b"")
        ):
            one.send(bytes([byte]))
        assert wire.answer()[2] == events
        one.close()


# The end


@pytest.fixture
def stopping(engine: HandEngine, tmp_path: Path) -> Iterator[Stack]:
    settings = {
        "backends": [{"id": "hand", "url": engine.url, "models": ["raw"]}],
        "meter": {"source": "none"},
        "engine_metrics": {"enabled": False},
        "server": {"port": 0, "drain_s": 1.0},
    }
    with running(tmp_path, settings) as stack:
        yield stack


def test_a_stop_lets_answers_end_and_cuts_off_those_that_do_not(stopping: Stack, engine: HandEngine) -> None:
    proxy = stopping.proxy
    with client(stopping) as idle, client(stopping) as ends, client(stopping) as hangs:
        idle.send(b"GET /health HTTP/1.1\r\n\r\n")
        idle.answer()
        engines: list[Wire] = []
        for wire, name in ((ends, "ends"), (hangs, "hangs")):
            wire.send(post(BODY, f"x-request-id: {name}"))
            one = engine.next()
            one.until(BODY)
            one.send(stream_head() + chunk(EVENT))
            wire.until(EVENT)
            engines.append(one)
        proxy._process.terminate()  # type: ignore[union-attr]  # and not waited for
        assert idle.is_closed()
        engines[0].send(chunk(b"data: [DONE]\n\n") + chunk(b""))
        assert ends.until(b"0\r\n\r\n").endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
        assert ends.is_closed()
        assert not hangs.rest().endswith(b"0\r\n\r\n")
        assert engines[1].is_closed()
    proxy.stop()
    proxy.start()
    records = {record["request_id"]: record for record in stopping.stored(2)}
    assert records["ends"]["status"] == "ok"
    assert (records["hangs"]["status"], records["hangs"]["error"]) == ("aborted", "joulegate was stopped")
    assert records["hangs"]["completion_tokens"] == 1
