"""Chunks that came whole and alone go on as they are; however the bytes are cut, the body is the same."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.wire.chunk import payload_of
from proxy.wire.client import Answer, Broken, Line
from proxy.wire.head import Header
from proxy.wire.pool import Pool

HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"


class Wire(asyncio.Transport):
    """The engine's end is the test: what is written is let go."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        del data

    def is_closing(self) -> bool:
        return False

    def abort(self) -> None: ...


class Taker:
    """A caller that takes the body both ways, and remembers how it ended."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self.body = b""
        self.as_they_came: list[bytes] = []
        self.end: str | None = None

    def answered(self, answer: Answer) -> None:
        assert answer.status == 200
        self._line.sink, self._line.framed = self._take, self._take_framed

    def _take(self, data: bytes) -> None:
        self.body += data

    def _take_framed(self, chunk: bytes, data: bytes) -> None:
        assert chunk == b"%x\r\n%b\r\n" % (len(data), data)
        self.as_they_came.append(data)
        self.body += data

    def ended(self, trailers: list[Header]) -> None:
        self.end = "whole"

    def broken(self, how: Broken) -> None:
        self.end = how

    def engine_full(self) -> None: ...
    def engine_ready(self) -> None: ...
    def switched(self, answer: Answer, data: bytes) -> None: ...


def taken(pieces: list[bytes]) -> Taker:
    """What a caller gets of an answer that comes in these pieces."""

    async def feed() -> Taker:
        loop = asyncio.get_running_loop()
        line = Line(Pool("http://127.0.0.1:9", connect_s=1.0), loop)
        line.connection_made(Wire())
        taker = Taker(line)
        line.send(taker, [b"GET / HTTP/1.1\r\n\r\n"], to_head=False, whole=True)
        for piece in pieces:
            if taker.end is None:
                line.data_received(piece)
        return taker

    return asyncio.run(feed())


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(place % len(data) for place in places)})
    return [data[begin:end] for begin, end in pairwise(edges)]


PAYLOADS = st.lists(
    st.one_of(
        st.binary(min_size=1, max_size=40),
        st.sampled_from([b"\r\n", b"0\r\n\r\n", b"5\r\nhello\r\n", b"a", b"x" * 4095, b"x" * 4096]),
    ),
    max_size=6,
)
SIZES = st.sampled_from(["%x", "%X", "%04x", "%x;ext=1"])


@given(payloads=PAYLOADS, form=SIZES, places=st.lists(st.integers(0, 10_000), max_size=8))
@example(payloads=[b"one", b"two"], form="%x", places=[len(HEAD), len(HEAD) + 8])
@example(payloads=[b"one", b"two"], form="%x", places=[len(HEAD) + 9])  # the next size torn from its chunk
@example(payloads=[b"\r\n", b"3"], form="%x", places=[len(HEAD), len(HEAD) + 5])
def test_however_an_answer_is_cut_its_body_is_the_same(
    payloads: list[bytes], form: str, places: list[int]
) -> None:
    chunks = b"".join((form % len(data)).encode() + b"\r\n" + data + b"\r\n" for data in payloads)
    taker = taken(cut(HEAD + chunks + END, places))
    assert taker.body == b"".join(payloads)
    assert taker.end == "whole"


def test_chunks_that_come_one_by_one_go_on_as_they_came() -> None:
    payloads = [b"data: %d\n\n" % n for n in range(20)]
    taker = taken([HEAD, *(b"%x\r\n%b\r\n" % (len(data), data) for data in payloads), END])
    assert taker.as_they_came == payloads[1:]  # before the first the parser has seen no chunk end
    assert taker.body == b"".join(payloads)
    assert taker.end == "whole"


@pytest.mark.parametrize(
    "torn",
    [b"3\r\nonex\n", b"3\r\none\r\r", b"-3\r\none\r\n", b"0x3\r\none\r\n", b"+3\r\none\r\n", b"g\r\n"],
)
def test_what_is_no_chunk_is_never_passed_on(torn: bytes) -> None:
    taker = taken([HEAD, b"3\r\none\r\n", b"3\r\ntwo\r\n", torn])
    assert taker.end == "torn"
    assert taker.as_they_came == [b"two"]


@pytest.mark.parametrize(
    ("data", "payload"),
    [
        (b"3\r\none\r\n", b"one"),
        (b"fff\r\n" + b"x" * 4095 + b"\r\n", b"x" * 4095),
        (b"1000\r\n" + b"x" * 4096 + b"\r\n", None),  # longer ones the parser reads
        (b"03\r\none\r\n", None),
        (b"A\r\n0123456789\r\n", None),
        (b"3\r\none\r\n3\r\ntwo\r\n", None),
        (b"3\r\none", None),
        (b"4\r\none\r\n", None),
        (b"0\r\n\r\n", None),
        (b"\r\n", None),
        (b"", None),
    ],
)
def test_only_one_whole_chunk_is_one(data: bytes, payload: bytes | None) -> None:
    assert payload_of(data) == payload
