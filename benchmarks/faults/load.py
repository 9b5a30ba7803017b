"""Clients that go on asking, and note which answers came whole and how long each took.

Some may have keys; who is told by a 429 that a budget is used up goes on asking all the same.
"""

from __future__ import annotations

import asyncio
import json
import random
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit
from uuid import uuid4

from benchmarks.faults.stats import quantile

CLIENTS = 8
PAUSE_S = 0.1
"""Of a client between two questions, on average: some fifty a second in all, which leaves the machine time.
They differ, else all clients would come to ask at the same moments."""


@dataclass
class Answers:
    """`whole`: ids of requests whose last byte came; `refused` of those answered with a 429.

    `took_s`: of whole ones, by when they began (monotonic).
    """

    whole: set[str] = field(default_factory=set)
    broken: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)
    took_s: list[tuple[float, float]] = field(default_factory=list)

    def p99_ms(self, from_s: float, to_s: float) -> float | None:
        return quantile([took * 1e3 for begun, took in self.took_s if from_s <= begun < to_s], 0.99)


class Refused(Exception):
    """A 429."""


@contextmanager
def asking(url: str, tokens: int = 4, secrets: Sequence[str] = ()) -> Iterator[Answers]:
    """Clients ask `url` in a thread of their own until the end of the block; then those asked get answers.

    `secrets`: of keys, which they share.
    """
    answers, stop = Answers(), threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(_ask(url, tokens, secrets, answers, stop)))
    thread.start()
    try:
        yield answers
    finally:
        stop.set()
        thread.join()


async def _ask(
    url: str, tokens: int, secrets: Sequence[str], answers: Answers, stop: threading.Event
) -> None:
    host, port = urlsplit(url).hostname, urlsplit(url).port
    assert host is not None
    assert port is not None
    clients = []
    for number in range(CLIENTS):
        head = f"authorization: Bearer {secrets[number % len(secrets)]}\r\n" if secrets else ""
        question = _Question(tokens, head, streamed=number // 2 % 2 == 0)
        clients.append(_client(host, port, question, random.Random(number), answers, stop))
    await asyncio.gather(*clients)


@dataclass
class _Question:
    tokens: int
    head: str
    streamed: bool


async def _client(
    host: str, port: int, question: _Question, chance: random.Random, answers: Answers, stop: threading.Event
) -> None:
    streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
    while not stop.is_set():
        request_id, begun_s = str(uuid4()), time.monotonic()
        try:
            streams = streams or await asyncio.open_connection(host, port)
            await _one(*streams, request_id, question)
        except Refused:
            answers.refused.add(request_id)
        except (OSError, asyncio.IncompleteReadError, ValueError):
            answers.broken.add(request_id)
            if streams is not None:
                streams[1].close()
            streams = None
        else:
            answers.whole.add(request_id)
            answers.took_s.append((begun_s, time.monotonic() - begun_s))
        await asyncio.sleep(chance.uniform(0.0, 2 * PAUSE_S))
    if streams is not None:
        streams[1].close()


async def _one(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request_id: str, question: _Question
) -> None:
    """Raises Refused; OSError, IncompleteReadError or ValueError where no answer comes whole with a 200."""
    streamed = question.streamed
    asked = {"model": "tiny", "messages": [{"role": "user", "content": "what does a joule cost?"}]}
    body = json.dumps({**asked, "max_tokens": question.tokens, "stream": streamed}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: joulegate\r\nx-request-id: {request_id}\r\n"
    head += f"{question.head}content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
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
    if " 429 " in lines[0] + " ":
        raise Refused
    whole = answer.endswith(b"data: [DONE]\n\n") if streamed else answer.endswith(b"}")
    if " 200 " not in lines[0] + " " or not whole:
        raise ValueError(f"{lines[0]}: {answer[-200:]!r}")
