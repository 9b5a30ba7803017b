"""Reads one streamed answer the way a stock client does, and times it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any


@dataclass
class Streamed:
    """What one answer brought. None where it was not said.

    `first_s` is when the first text came, on the clock of `read`; `tokens` is the engine's own count of
    output tokens; `joules` is the figure beside it. `error` says why the answer cannot be counted.
    """

    first_s: float | None = None
    tokens: int | None = None
    joules: float | None = None
    error: str | None = None
    size_bytes: int = 0


def read(lines: Iterable[bytes], clock: Callable[[], float] = time.perf_counter) -> Streamed:
    """Read server-sent events up to `[DONE]`. Raises what `lines` raises, ValueError for what is no JSON."""
    seen = Streamed()
    for line in lines:
        seen.size_bytes += len(line) + 1
        if not line.startswith(b"data: "):
            continue
        data = line[6:]
        if data == b"[DONE]":
            if seen.tokens is None:
                seen.error = "the stream brought no usage"
            return seen
        # Most events are passed over unread: a load generator should not be what is measured.
        if seen.first_s is None or b'"usage"' in data or b'"error"' in data:
            _look(json.loads(data), seen, clock)
            if seen.error is not None:
                return seen
    seen.error = "the stream ended without [DONE]"
    return seen


def _look(event: dict[str, Any], seen: Streamed, clock: Callable[[], float]) -> None:
    if event.get("error"):
        seen.error = str(event["error"].get("message"))
    if seen.first_s is None and any(_text(choice) for choice in event.get("choices") or ()):
        seen.first_s = clock()
    if event.get("usage"):
        seen.tokens = event["usage"]["completion_tokens"]
        seen.joules = (event.get("energy") or {}).get("energy_joules")


def _text(choice: dict[str, Any]) -> str:
    """The text of a chunk, in chat's form or that of completions. Chat's first chunk has only the role."""
    text: str = choice.get("text") or (choice.get("delta") or {}).get("content") or ""
    return text
