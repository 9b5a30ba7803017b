"""The plain requests that the cases vary."""

from __future__ import annotations

from typing import Any, Final

MESSAGES: Final = [{"role": "user", "content": "what is the power of one token"}]
PROMPT: Final = "the energy of each request"
FIXED: Final = {"temperature": 0, "seed": 7, "max_tokens": 16, "ignore_eos": True}
SAMPLED: Final = {"temperature": 0.8, "seed": 7, "max_tokens": 16, "ignore_eos": True}


def chat_body(model: str, /, **more: object) -> dict[str, Any]:
    return {"model": model, "messages": MESSAGES, **FIXED, **more}


def completion_body(model: str, /, **more: object) -> dict[str, Any]:
    return {"model": model, "prompt": PROMPT, **FIXED, **more}
