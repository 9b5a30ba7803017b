"""The demo's load: a mix of tenants and kinds of requests, sent with the stock OpenAI client."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal
from uuid import uuid4

try:
    import openai
except ImportError as error:  # the client is an extra
    raise ImportError(
        "the demo sends its load with the openai client: pip install 'joulegate[demo]'"
    ) from error

Kind = Literal["chat, streamed", "chat", "completion", "long prompt", "gone client", "unknown model"]

WORDS = ("joules", "are", "shared", "among", "all", "requests", "that", "the", "engine", "batched")
USUAL = 40
"""So many requests, if nothing is said: with fewer the work model has seen too little to split well."""

GONE_AFTER = 10
"""The client that goes away does so after this many chunks."""


@dataclass(frozen=True)
class Ask:
    request_id: str
    tenant: str
    kind: Kind
    prompt_words: int
    max_tokens: int


@dataclass(frozen=True)
class Sent:
    """`told_joules` is what the answer itself said: a provisional figure, None where it said nothing."""

    ask: Ask
    told_joules: float | None
    error: str | None


def mixed(count: int, seed: int = 7) -> list[Ask]:
    """`count` requests: chats, completions, long prompts, one client that leaves, one unknown model."""
    pick = random.Random(seed)
    special: list[Kind] = ["gone client", "unknown model"]
    asks = []
    for i in range(count):
        kind: Kind = (
            special[i - count // 2]
            if count // 2 <= i < count // 2 + len(special)
            else pick.choices(("chat, streamed", "chat", "completion", "long prompt"), (5, 3, 2, 2))[0]
        )
        tenant = {"completion": "editor", "long prompt": "search"}.get(kind) or pick.choice(("chat", "batch"))
        words = pick.randint(900, 2500) if kind == "long prompt" else pick.randint(10, 120)
        tokens = pick.randint(10, 40) if kind == "long prompt" else pick.randint(30, 300)
        asks.append(Ask(str(uuid4()), tenant, kind, words, 400 if kind == "gone client" else tokens))
    return asks


def send(url: str, model: str, ask: Ask) -> Sent:
    """Send one request and read its answer to the end (or leave early, where that is the point)."""
    client = openai.OpenAI(
        base_url=f"{url}/v1",
        api_key="none",
        max_retries=0,
        default_headers={"x-request-id": ask.request_id, "x-joulegate-tenant": ask.tenant},
    )
    try:
        return Sent(ask, _told(_exchange(client, model, ask)), None)
    except openai.APIError as error:
        return Sent(ask, None, error.message)


def _exchange(client: openai.OpenAI, model: str, ask: Ask) -> object:
    pick = random.Random(ask.request_id)  # prompts differ, so that the prefix cache has little to give
    prompt = " ".join(pick.choices(WORDS, k=ask.prompt_words))
    ignore_eos = {"ignore_eos": True}
    if ask.kind == "completion":
        return client.completions.create(
            model=model, prompt=prompt, max_tokens=ask.max_tokens, extra_body=ignore_eos
        )
    if ask.kind == "unknown model":
        model = "gpt-99"
    messages: list[openai.types.chat.ChatCompletionMessageParam] = [{"role": "user", "content": prompt}]
    if ask.kind == "chat":
        return client.chat.completions.create(
            model=model, messages=messages, max_tokens=ask.max_tokens, extra_body=ignore_eos
        )
    last: object = None
    with client.chat.completions.create(
        model=model,
        messages=messages,
        max_tokens=ask.max_tokens,
        stream=True,
        stream_options={"include_usage": True},
        extra_body=ignore_eos,
    ) as stream:
        for seen, chunk in enumerate(stream):
            last = chunk
            if ask.kind == "gone client" and seen == GONE_AFTER:
                break
    return last


def _told(answer: object) -> float | None:
    """The energy object's figure; the client keeps fields it does not know."""
    energy = getattr(answer, "energy", None)
    joules = energy.get("energy_joules") if isinstance(energy, dict) else None
    return float(joules) if joules is not None else None
