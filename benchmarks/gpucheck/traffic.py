"""Requests sent at set times, whether or not the ones before have been answered (an open loop)."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass

import aiohttp

VOCABULARY = 500
"""Token ids below this are in every model's vocabulary."""

TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Ask:
    """One request. `at_s` counts from the beginning of the traffic."""

    at_s: float
    prompt: int
    tokens: int
    kind: str


@dataclass(frozen=True)
class Sent:
    ask: Ask
    ok: bool
    seconds: float


def mixed(seconds: float, per_s: float, seed: int, scale: float = 1.0) -> list[Ask]:
    """Poisson arrivals of prompts of 30 to 1500 tokens and answers of 16 to 160, both times `scale`."""
    rng = random.Random(seed)
    asks: list[Ask] = []
    at_s = rng.expovariate(per_s)
    while at_s < seconds:
        prompt = round(30 * 50 ** rng.random() * scale)
        asks.append(Ask(at_s, max(prompt, 4), max(round(rng.randint(16, 160) * scale), 4), "background"))
        at_s += rng.expovariate(per_s)
    return asks


def known_class(seconds: float, every_s: float, scale: float = 1.0) -> list[Ask]:
    """Alike requests at even distances: prompts of 4000 tokens, answers of 8.

    Reading a long prompt keeps the GPU busy by itself, so that what such a request adds and what its part of
    the work is are nearly the same: the one class of which an A/B says what it should be charged.
    """
    count = int(seconds / every_s)
    prompt, tokens = round(4000 * scale), max(round(8 * scale), 2)
    return [Ask((i + 0.5) * every_s, prompt, tokens, "known") for i in range(count)]


def send_all(url: str, model: str, asks: Sequence[Ask]) -> list[Sent]:
    """Send them and wait for the last answer."""
    return asyncio.run(_send_all(url, model, asks))


async def _send_all(url: str, model: str, asks: Sequence[Ask]) -> list[Sent]:
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        begin_s = time.monotonic()
        return list(
            await asyncio.gather(*(_send(session, url, model, ask, begin_s, i) for i, ask in enumerate(asks)))
        )


async def _send(
    session: aiohttp.ClientSession, url: str, model: str, ask: Ask, begin_s: float, number: int
) -> Sent:
    rng = random.Random(number)  # prompts differ, or a prefix cache would answer for them
    body = {
        "model": model,
        "prompt": [rng.randrange(3, VOCABULARY) for _ in range(ask.prompt)],
        "max_tokens": ask.tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    await asyncio.sleep(begin_s + ask.at_s - time.monotonic())
    sent_s = time.monotonic()
    headers = {"x-joulegate-tenant": ask.kind}
    try:
        async with session.post(f"{url}/v1/completions", json=body, headers=headers) as response:
            last = b""
            async for line in response.content:
                last = line.strip() or last
            ok = response.status == 200 and last == b"data: [DONE]"
    except (aiohttp.ClientError, TimeoutError):
        ok = False  # counted by the caller: a check with failed requests says so
    return Sent(ask, ok, time.monotonic() - sent_s)
