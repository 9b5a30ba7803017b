"""Clients that go on asking, and note which answers came whole and how long each took."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit
from uuid import uuid4

from benchmarks.faults.stats import quantile

CLIENTS = 8
PAUSE_S = 0.1
"""Of a client between two questions: some fifty a second in all, which leaves the machine time."""


@dataclass
class Answers:
    """`whole`: ids of requests whose last byte came. `took_s`: of these, by when they began (monotonic)."""

    whole: set[str] = field(default_factory=set)
    broken: set[str] = field(default_factory=set)
    took_s: list[tuple[float, float]] = field(default_factory=list)

    def p99_ms(self, from_s: float, to_s: float) -> float | None:
        return quantile([took * 1e3 for begun, took in self.took_s if from_s <= begun < to_s], 0.99)


@contextmanager
def asking(url: str, tokens: int = 4) -> Iterator[Answers]:
    """Clients ask `url` in a thread of their own until the end of the block; then those asked get answers."""
    answers, stop = Answers(), threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(_ask(url, tokens, answers, stop)))
    thread.start()
    try:
        yield answers
    finally:
        stop.set()
        thread.join()


async def _ask(url: str, tokens: int, answers: Answers, stop: threading.Event) -> None:
    host, port = urlsplit(url).hostname, urlsplit(url).port
    assert host is not None
    assert port is not None
    await asyncio.gather(*(_client(host, port, tokens, n, answers, stop) for n in range(CLIENTS)))


async def _client(
    host: str, port: int, tokens: int, number: int, answers: Answers, stop: threading.Event
) -> None:
    streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
    while not stop.is_set():
        request_id, begun_s = str(uuid4()), time.monotonic()
        try:
            streams = streams or await asyncio.open_connection(host, port)
            await _one(*streams, request_id, tokens, streamed=number % 2 == 0)
        except (OSError, asyncio.IncompleteReadError, ValueError):
            answers.broken.add(request_id)
            if streams is not None:
                streams[1].close()
            streams = None
        else:
            answers.whole.add(request_id)
            answers.took_s.append((begun_s, time.monotonic() - begun_s))
        await asyncio.sleep(PAUSE_S)
    if streams is not None:
        streams[1].close()


async def _one(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    request_id: str,
    tokens: int,
    *,
    streamed: bool,
) -> None:
    """Raises OSError, IncompleteReadError or ValueError where the answer does not come whole with a 200."""
    asked = {"model": "tiny", "messages": [{"role": "user", "content": "what does a joule cost?"}]}
    body = json.dumps({**asked, "max_tokens": tokens, "stream": streamed}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: joulegate\r\nx-request-id: {request_id}\r\n"
    head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    lines = (await reader.readuntil(b"\r\n\r\n")).decode().lower().splitlines()
    headers = dict(line.split(": ", 1) for line in lines[1:] if ": " in line)
    if "chunked" in headers.get("transfer-encoding", ""):
        answer = b""
        while size := int(await reader.readuntil(b"\r\n"), 16):
            answer += (await reader.readexactly(size + 2))[:-2]
        await reader.readexactly(2)
    else:
        answer = await reader.readexactly(int(headers["content-length"]))
    whole = answer.endswith(b"data: [DONE]\n\n") if streamed else answer.endswith(b"}")
    if " 200 " not in lines[0] + " " or not whole:
        raise ValueError(f"{lines[0]}: {answer[-200:]!r}")
