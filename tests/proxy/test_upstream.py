"""The client to the engines, against bytes on a real socket."""

from __future__ import annotations

import asyncio
import threading

import pytest

from proxy import settings
from proxy.ask import understand
from proxy.backends import Backend
from proxy.errors import ApiError, BackendFailed, BackendTimeout, BackendUnavailable
from proxy.settings import Timeouts
from proxy.upstream import Upstream
from tests.proxy.raw_engine import RawEngine, chunk, stream_head, whole

JSON = (b"content-type", b"application/json")


def fetch(url: str, timeouts: Timeouts, *headers: tuple[bytes, bytes]) -> list[bytes]:
    """POST a small body; the pieces of the answer."""
    ask = understand("POST", "/v1/chat/completions", b"a=%20b", [JSON, *headers], b'{"model":"raw"}')
    backend = Backend.of(settings.Backend.model_validate({"id": "raw", "url": url}), [])

    async def exchange() -> list[bytes]:
        upstream = Upstream(timeouts)
        async with upstream.running():
            engine = await upstream.send(backend, ask, ask.body)
            return [piece async for piece in upstream.pieces(engine, backend)]

    return asyncio.run(exchange())


def test_idle_counts_between_pieces_and_not_before_the_first_byte() -> None:
    # an answer that is not streamed begins only when all its tokens are made
    proceed = threading.Semaphore(0)
    with RawEngine() as engine:
        engine.answer(b"", whole(b'{"late":1}'), proceed=proceed)
        thinking = threading.Timer(0.6, proceed.release)
        thinking.start()
        assert b"".join(fetch(engine.url, Timeouts(first_byte_s=30, idle_s=0.2))) == b'{"late":1}'


def test_silence_between_pieces_is_a_timeout() -> None:
    with RawEngine() as engine:
        engine.answer(stream_head() + chunk(b"a"), end="hold")
        with pytest.raises(BackendTimeout, match="sent nothing for too long"):
            fetch(engine.url, Timeouts(first_byte_s=30, idle_s=0.2))


def test_no_first_byte_in_time_is_a_timeout() -> None:
    with RawEngine() as engine:
        engine.answer(b"", end="hold")
        with pytest.raises(BackendTimeout, match="did not answer in time"):
            fetch(engine.url, Timeouts(first_byte_s=0.2, idle_s=30))


def test_nobody_listening_is_unavailable() -> None:
    with RawEngine() as engine:
        url = engine.url
    with pytest.raises(BackendUnavailable, match="cannot be reached"):
        fetch(url, Timeouts())


def test_a_name_that_nobody_knows_is_unavailable() -> None:
    with pytest.raises(BackendUnavailable, match="cannot be reached"):
        fetch("http://no-such-engine.invalid:8000", Timeouts())


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"SSH-2.0-OpenSSH\r\n",
        b"\x00\xff\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-len",
        whole(b"0123456789")[:-1],
        stream_head() + chunk(b"a"),
        stream_head() + b"zz\r\na\r\n",
    ],
    ids=[
        "nothing",
        "another protocol",
        "garbage",
        "half a head",
        "short body",
        "no last chunk",
        "no chunk size",
    ],
)
def test_what_is_no_whole_answer_is_a_failed_backend(answer: bytes) -> None:
    with RawEngine() as engine:
        engine.answer(answer)
        with pytest.raises(ApiError) as caught:
            fetch(engine.url, Timeouts(first_byte_s=5, idle_s=5))
    assert type(caught.value) is BackendFailed
    assert "backend raw" in caught.value.message


def test_headers_of_the_connection_stay_here_and_all_others_go_on() -> None:
    ours = [
        (b"x-custom", "café".encode()),
        (b"x-custom", b"twice"),
        (b"authorization", b"Bearer secret"),
        (b"traceparent", b"00-1-2-3"),
        (b"connection", b"keep-alive"),
        (b"te", b"trailers"),
        (b"accept-encoding", b"br"),
        (b"content-length", b"999"),
    ]
    with RawEngine() as engine:
        engine.answer(whole(b"{}"))
        fetch(engine.url, Timeouts(), *ours)
        (got,) = engine.received
    assert got.line == "POST /v1/chat/completions?a=%20b HTTP/1.1"
    assert got.all("x-custom") == ["café".encode().decode("latin-1"), "twice"]
    assert got.all("authorization") == ["Bearer secret"]
    assert got.all("traceparent") == ["00-1-2-3"]
    assert got.all("content-length") == [str(len(got.body))]
    assert got.all("te") == got.all("accept-encoding") == got.all("user-agent") == got.all("accept") == []
    assert len(got.all("x-request-id")) == 1
