"""Many streams at once, as a client sees them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import uuid4

import httpx

from tests.proxy.stack import CHAT, chat


@dataclass
class Seen:
    """How a request ended for its client: `complete` means it saw the last byte."""

    request_id: str
    complete: bool
    status: int | None


async def send(client: httpx.AsyncClient, number: int, tokens: int) -> Seen:
    """One chat; of four, three are streamed. Never raises for what the proxy does."""
    request_id = str(uuid4())
    streamed = number % 4 != 3
    body = chat(max_tokens=tokens, stream=streamed, messages=_messages(number))
    seen = Seen(request_id, False, None)
    try:
        async with client.stream("POST", CHAT, json=body, headers={"x-request-id": request_id}) as answer:
            seen.status = answer.status_code
            content = b"".join([piece async for piece in answer.aiter_raw()])
        whole = content.endswith(b"data: [DONE]\n\n") if streamed else content.endswith(b"}")
        seen.complete = answer.status_code == 200 and whole
    except httpx.TransportError:
        pass  # that it is not complete is what is told
    return seen


def _messages(number: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"question {number}: what does a joule cost?"}]


async def storm(
    url: str, tokens: Sequence[int], begun: asyncio.Event | None = None, enough: int = 0
) -> list[Seen]:
    """A request for each number of tokens, all at once. `begun` is set when `enough` have ended."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=60.0, limits=limits) as client:
        tasks = [asyncio.create_task(send(client, n, count)) for n, count in enumerate(tokens)]
        for ended, task in enumerate(asyncio.as_completed(tasks), 1):
            await task
            if begun is not None and ended == enough:
                begun.set()
        return [task.result() for task in tasks]


def ids(seen: Sequence[Seen], *, complete: bool) -> set[str]:
    return {one.request_id for one in seen if one.complete is complete}
