"""Lines to engines and the pool that keeps them, against bytes on a real socket."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest

from proxy.wire.client import Answer, Broken, Line
from proxy.wire.head import Header
from proxy.wire.pool import ConnectTimeout, Pool
from tests.proxy.raw_engine import RawEngine, chunk, stream_head, whole

REQUEST = b"POST /v1/x HTTP/1.1\r\nhost: h\r\ncontent-length: 2\r\n\r\n{}"


@dataclass
class Seen:
    """A `Caller` that keeps what it is told."""

    line: Line | None = None
    answer: Answer | None = None
    body: bytes = b""
    pieces: list[bytes] = field(default_factory=list)
    trailers: list[Header] | None = None
    broken_how: Broken | None = None
    over: asyncio.Event = field(default_factory=asyncio.Event)

    def answered(self, answer: Answer) -> None:
        self.answer = answer
        assert self.line is not None
        self.line.sink = self.pieces.append

    def ended(self, trailers: list[Header]) -> None:
        self.trailers = trailers
        self.over.set()

    def broken(self, how: Broken) -> None:
        self.broken_how = how
        self.over.set()

    def engine_full(self) -> None:
        raise AssertionError("two bytes do not fill a socket")

    def engine_ready(self) -> None:
        raise AssertionError("two bytes do not fill a socket")

    def switched(self, answer: Answer, data: bytes) -> None:
        self.answer, self.body = answer, data
        self.over.set()


async def fetch(pool: Pool, request: bytes = REQUEST, *, to_head: bool = False) -> Seen:
    """Send a request over the pool; all that was told of its answer."""
    seen = Seen()

    def send(line: Line) -> None:
        seen.line = line
        line.send(seen, [request], to_head=to_head, whole=True)

    def failed(error: OSError) -> None:
        raise AssertionError(error)

    line = pool.take()
    if line is None:
        pool.connect(send, failed)
    else:
        send(line)
    async with asyncio.timeout(20):
        await seen.over.wait()
    return seen


def once(answer: bytes, *, to_head: bool = False) -> Seen:
    with RawEngine() as engine:
        engine.answer(answer)

        async def run() -> Seen:
            return await fetch(Pool(engine.url, connect_s=5), to_head=to_head)

        return asyncio.run(run())


@pytest.mark.parametrize(
    ("answer", "how"),
    [
        (b"", "closed"),
        (b"SSH-2.0-OpenSSH\r\n", "garbage"),
        (b"\x00\xff\r\n\r\n", "garbage"),
        (b"HTTP/1.1 200 OK\r\ncontent-len", "torn"),
        (whole(b"0123456789")[:-1], "torn"),
        (stream_head() + chunk(b"a"), "torn"),
        (stream_head() + b"zz\r\na\r\n", "torn"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", "garbage"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab", "garbage"),
        (b"HTTP/1.1 200 OK\r\na: b\r\n c\r\ncontent-length: 0\r\n\r\n", "garbage"),
        (b"HTTP/1.1 101 Switching Protocols\r\nupgrade: other\r\n\r\n", "garbage"),
    ],
    ids=[
        "nothing",
        "another protocol",
        "garbage",
        "half a head",
        "short body",
        "no last chunk",
        "no chunk size",
        "length and chunks",
        "two lengths",
        "a folded header",
        "an upgrade that nobody asked for",
    ],
)
def test_what_is_no_whole_answer_is_told_as_broken(answer: bytes, how: Broken) -> None:
    seen = once(answer)
    assert seen.broken_how == how
    assert seen.trailers is None


def test_an_answer_without_length_ends_with_its_connection() -> None:
    seen = once(b"HTTP/1.1 200 Fine\r\nx: 1\r\n\r\nall of it")
    assert seen.answer is not None
    assert (seen.answer.status, seen.answer.reason, seen.answer.headers) == (200, b"Fine", [(b"x", b"1")])
    assert (b"".join(seen.pieces), seen.trailers) == (b"all of it", [])


def test_chunks_that_come_together_are_one_piece_and_trailers_are_told_apart() -> None:
    data = stream_head() + chunk(b"ab") + chunk(b"cd") + b"0\r\nX-Sum: 4\r\n\r\n"
    seen = once(data)
    assert (seen.pieces, seen.trailers) == ([b"abcd"], [(b"x-sum", b"4")])


@pytest.mark.parametrize("trailer", [b"", b"digest: x\r\n"], ids=["plain", "with a trailer"])
def test_of_two_answers_that_come_together_the_first_one_counts(trailer: bytes) -> None:
    first = stream_head() + chunk(b"first") + b"0\r\n" + trailer + b"\r\n"
    seen = once(first + whole(b"second", status="404 Not Found", headers=["digest: y"]))
    assert seen.answer is not None
    assert (seen.answer.status, b"".join(seen.pieces)) == (200, b"first")
    assert seen.trailers == ([(b"digest", b"x")] if trailer else [])


def test_interim_answers_are_passed_over() -> None:
    seen = once(b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + whole(b"{}"))
    assert seen.answer is not None
    assert (seen.answer.status, seen.answer.header(b"link"), seen.pieces) == (200, None, [b"{}"])


def test_the_answer_to_a_head_has_no_body_whatever_its_length_says() -> None:
    seen = once(b"HTTP/1.1 405 No\r\ncontent-length: 31\r\n\r\n", to_head=True)
    assert seen.answer is not None
    assert (seen.answer.status, seen.answer.length, seen.pieces) == (405, 31, [])


def test_nobody_listening_and_unknown_names_are_failures_to_connect() -> None:
    async def failure(url: str) -> OSError:
        failed: asyncio.Future[OSError] = asyncio.get_running_loop().create_future()

        def ready(line: Line) -> None:
            raise AssertionError("connected to nobody")

        Pool(url, connect_s=20).connect(ready, failed.set_result)
        return await failed

    with RawEngine() as engine:
        url = engine.url
    assert isinstance(asyncio.run(failure(url)), ConnectionRefusedError)
    assert not isinstance(asyncio.run(failure("http://no-such-engine.invalid:1")), ConnectTimeout)


async def _keeping(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, ports: list[int], answer: bytes
) -> None:
    while await reader.read(10_000):
        ports.append(writer.get_extra_info("peername")[1])
        writer.write(answer)
    writer.close()


@pytest.mark.parametrize(
    ("answer", "again"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", True),
        (stream_head() + chunk(b"a") + chunk(b""), True),
        (b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n", False),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\nmore", False),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n" * 2, False),
    ],
    ids=["of a length", "in chunks", "that closes", "with bytes after its end", "with another one"],
)
def test_a_line_is_used_again_after_a_sound_answer(answer: bytes, again: bool) -> None:
    async def run() -> list[int]:
        ports: list[int] = []
        server = await asyncio.start_server(lambda r, w: _keeping(r, w, ports, answer), "127.0.0.1", 0)
        async with server:
            pool = Pool(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", connect_s=5)
            for _ in range(2):
                seen = await fetch(pool)
                assert seen.trailers is not None
            pool.close()
        return ports

    ports = asyncio.run(run())
    assert len(ports) == 2
    assert (ports[0] == ports[1]) is again
