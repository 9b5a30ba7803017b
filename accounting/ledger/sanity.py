"""What others say of a request, with the nonsense taken out: what cannot be is taken as not told."""

from __future__ import annotations

from accounting.events import EngineTimes, Usage

MAX_TOKENS = 1_000_000_000
"""No request has more tokens than this, nor does one tick bring more."""

MAX_MS = 30 * 24 * 3600 * 1000.0
"""No request lasts longer than a month."""


def sound_usage(usage: Usage | None) -> Usage | None:
    """The token counts that can be true; None for the others."""
    if usage is None:
        return None
    prompt, cached, completion = usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens
    if _tokens(prompt) is prompt and _tokens(cached) is cached and _tokens(completion) is completion:
        return usage
    return Usage(
        prompt_tokens=_tokens(usage.prompt_tokens),
        cached_tokens=_tokens(usage.cached_tokens),
        completion_tokens=_tokens(usage.completion_tokens),
    )


def sound_times(times: EngineTimes | None) -> EngineTimes | None:
    """The times that can be true; None for the others."""
    if times is None:
        return None
    return EngineTimes(
        queue_ms=_ms(times.queue_ms),
        first_token_ms=_ms(times.first_token_ms),
        generation_ms=_ms(times.generation_ms),
    )


def _tokens(count: int | None) -> int | None:
    return count if count is not None and 0 <= count <= MAX_TOKENS else None


def _ms(time_ms: float | None) -> float | None:
    return time_ms if time_ms is not None and 0 <= time_ms <= MAX_MS else None  # NaN fails both
