"""Reads one streamed answer the way a stock client does, and times it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

TEXT_KEYS = ("content", "reasoning_content", "reasoning")


@dataclass
class Streamed:
    """What one answer brought. None where it was not said.

    `chunk_s` is when each piece of text came, on the clock of `read`, in seconds; a piece may hold several
    tokens. `tokens` and `prompt_tokens` are the engine's own counts; `joules` is the figure beside them.
    `error` says why the answer cannot be counted.
    """

    chunk_s: list[float] = field(default_factory=list)
    tokens: int | None = None
    prompt_tokens: int | None = None
    joules: float | None = None
    error: str | None = None
    size_bytes: int = 0

    @property
    def first_s(self) -> float | None:
        return self.chunk_s[0] if self.chunk_s else None

    @property
    def last_s(self) -> float | None:
        return self.chunk_s[-1] if self.chunk_s else None


def read(
    lines: Iterable[bytes], clock: Callable[[], float] = time.perf_counter, seen: Streamed | None = None
) -> Streamed:
    """Read server-sent events to the end of the stream, into `seen` if it is given: it has what came so far
    should `lines` raise, which is passed on. Raises ValueError for what is no JSON.
    """
    seen = Streamed() if seen is None else seen
    chunk_s, done = seen.chunk_s, False
    for line in lines:
        seen.size_bytes += len(line)
        if not line.startswith(b"data: "):
            continue
        if line.startswith(b"data: [DONE]"):
            done = True
            continue
        # Most events are passed over unread: a load generator should not be what is measured.
        if not chunk_s or b'"usage":{' in line or b'"usage": {' in line or b'"error"' in line:
            if _look(json.loads(line[6:]), seen):
                chunk_s.append(clock())
        else:
            chunk_s.append(clock())
    if seen.error is None and not done:
        seen.error = "the stream ended without [DONE]"
    elif seen.error is None and seen.tokens is None:
        seen.error = "the stream brought no usage"
    return seen


def _look(event: dict[str, Any], seen: Streamed) -> bool:
    """Take from an event what it says of the whole; whether it brought text."""
    if event.get("error"):
        seen.error = str(event["error"].get("message"))
    if event.get("usage"):
        seen.tokens = event["usage"]["completion_tokens"]
        seen.prompt_tokens = event["usage"]["prompt_tokens"]
        seen.joules = (event.get("energy") or {}).get("energy_joules")
    return any(_has_text(choice) for choice in event.get("choices") or ())


def _has_text(choice: dict[str, Any]) -> bool:
    """Chat's first chunk has only the role. What is thought counts as text: its tokens cost as much."""
    delta = choice.get("delta") or {}
    return bool(choice.get("text")) or any(delta.get(key) for key in TEXT_KEYS)
