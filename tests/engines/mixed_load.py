"""A mixed load: every kind of request the ledger has to place, within the engine's room and beyond it.

Each worker sends one request after the other, so more workers than the engine has seats keep a queue. What a
worker sends depends only on its number: the same load in every run, up to how fast the engine is.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import httpx

from tests.engines.tiny_llama import WORDS
from tests.parity.exchange import NO_TLS

SEATS: Final = 4
"""What tests/engines/vllm_server.py lets the engine run at once."""

PHASES: Final = (("some room left", SEATS - 1), ("a queue", 2 * SEATS))
THINK_S: Final = 0.25
"""A worker waits up to so long between two requests while there is room, as people do."""

PREFIX_WORDS: Final = 700
"""Words of the prefix that several prompts share: some full blocks of vLLM's prefix cache."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of request: words of its prompt, tokens of its answer (from, to), and how it is asked."""

    name: str
    words: tuple[int, int]
    tokens: tuple[int, int]
    streamed: bool
    sequences: int = 1
    shares_prefix: bool = False


KINDS: Final = (
    Kind("short", (5, 40), (60, 300), True),
    Kind("short", (5, 40), (60, 300), True),
    Kind("long prompt", (600, 1300), (20, 120), True),
    Kind("cached prefix", (10, 120), (40, 150), True, shares_prefix=True),
    Kind("n = 2", (5, 40), (60, 200), True, sequences=2),
    Kind("short, not streamed", (5, 40), (20, 200), False),
    Kind("long prompt, not streamed", (600, 1300), (20, 80), False),
    Kind("n = 2, not streamed", (5, 40), (40, 120), False, sequences=2),
)


@dataclass(frozen=True, slots=True)
class Sent:
    request_id: str
    kind: Kind
    phase: str
    usage: dict[str, Any] | None
    """As the engine told the client; None in a stream, where nobody asked for it."""


def send_load(url: str, model: str, phase_s: float) -> list[Sent]:
    """Send every phase for so long to the proxy at `url`; returns when the last answer is whole."""
    sent: list[Sent] = []
    for phase, workers in PHASES:
        end = time.monotonic() + phase_s
        think_s = THINK_S if workers < SEATS else 0.0
        with ThreadPoolExecutor(workers) as pool:
            jobs = [pool.submit(_work, url, model, phase, number, end, think_s) for number in range(workers)]
            sent += [one for job in jobs for one in job.result()]
    return sent


def _work(url: str, model: str, phase: str, number: int, end: float, think_s: float) -> list[Sent]:
    rng = random.Random(f"{phase} {number}")
    sent = []
    with httpx.Client(base_url=url, timeout=120, verify=NO_TLS, trust_env=False) as client:
        turn = number
        while time.monotonic() < end:
            kind = KINDS[turn % len(KINDS)]
            request_id = f"{phase.replace(' ', '-')}-{number}-{turn}"
            usage = _ask(client, request_id, _body(model, kind, rng))
            sent.append(Sent(request_id, kind, phase, usage))
            turn += 1
            time.sleep(rng.uniform(0, think_s))  # part of the load, waits for nothing
    return sent


def _body(model: str, kind: Kind, rng: random.Random) -> dict[str, Any]:
    words = WORDS.split()
    text = rng.choices(words, k=rng.randint(*kind.words))
    if kind.shares_prefix:
        text = random.Random(rng.randint(0, 1)).choices(words, k=PREFIX_WORDS) + text
    return {
        "model": model,
        "messages": [{"role": "user", "content": " ".join(text)}],
        "max_tokens": rng.randint(*kind.tokens),
        "ignore_eos": True,
        "temperature": 0.8,  # without a seed: vLLM 0.32 dies on the CPU when a seeded prompt is chunked
        "stream": kind.streamed,
        "n": kind.sequences,
    }


def _ask(client: httpx.Client, request_id: str, body: dict[str, Any]) -> dict[str, Any] | None:
    path, headers = "/v1/chat/completions", {"x-request-id": request_id}
    if not body["stream"]:
        answer = client.post(path, json=body, headers=headers).raise_for_status().json()
        usage: dict[str, Any] = answer["usage"]
        return usage
    with client.stream("POST", path, json=body, headers=headers) as response:
        response.raise_for_status()
        last = [line for line in response.iter_lines() if line][-1]
    if last != "data: [DONE]":
        raise RuntimeError(f"{request_id} ended with {last}")
    return None


def sequences_of(sent: Sequence[Sent]) -> int:
    return sum(one.kind.sequences for one in sent)
