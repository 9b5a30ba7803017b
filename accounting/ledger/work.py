"""When a request's work was done: tokens and prompt tokens laid into intervals of time."""

from __future__ import annotations

from accounting.ledger.state import BackendState, OpenRequest

INTERVAL_US = 500_000
"""Length of an interval. At least twice the counter's period, or its edges blur the shares."""

PREFILL_US_PER_TOKEN = 300
PREFILL_SLACK_US = 30_000
"""A prefill is taken to last at most this long per prompt token, plus slack: what is longer was queueing."""

SAME_STEP_US = 3_000
"""First tokens closer than this come from one engine step."""


MAX_SPREAD_US = 3_600_000_000
"""Work is laid into this much time at most, the latest: a bound on memory, far above what happens."""


def number(t_us: int) -> int:
    """The interval that holds `t_us`."""
    return t_us // INTERVAL_US


def spread(bins: dict[int, int], amount: int, t0_us: int, t1_us: int) -> None:
    """Lay `amount` evenly over [t0_us, t1_us] into `bins`, exactly. A point in time goes into one bin."""
    t0_us = max(t0_us, t1_us - MAX_SPREAD_US)
    first, last = number(t0_us), number(t1_us)
    if first == last or t1_us <= t0_us:
        bins[last] = bins.get(last, 0) + amount
        return
    laid = 0
    for k in range(first, last + 1):
        end = min((k + 1) * INTERVAL_US, t1_us)
        upto = amount * (end - t0_us) // (t1_us - t0_us)
        if upto > laid:
            bins[k] = bins.get(k, 0) + upto - laid
            laid = upto


def rescale(bins: dict[int, int], from_interval: int, was: int, now: int) -> None:
    """Correct the bins from `from_interval` on for work thought to be `was` that turned out to be `now`."""
    if was > 0 and was != now:
        for k in bins:
            if k >= from_interval:
                bins[k] = bins[k] * now // was


def uncached_prompt_tokens(request: OpenRequest, backend: BackendState) -> int:
    """Prompt tokens to compute: as the engine reported, else guessed from the size of the body."""
    usage = request.usage
    if usage is not None and usage.prompt_tokens is not None:
        return max(usage.prompt_tokens - (usage.cached_tokens or 0), 1)
    return max(round(request.started.body_bytes / backend.bytes_per_token), 1)


def book_prefill(request: OpenRequest, backend: BackendState, first_us: int, settled_us: int) -> None:
    """Lay the prompt's work into the time before the first token, leaving queueing free.

    The engine works off prompts in turn, so the prefill began no earlier than the latest other first token;
    and it lasts no longer than the prompt's length allows. Work that would fall into intervals already
    settled is done in the first one that is not: it is never lost.
    """
    tokens = uncached_prompt_tokens(request, backend)
    begin = max(
        request.started.t_us,
        first_us - PREFILL_US_PER_TOKEN * tokens - PREFILL_SLACK_US,
        max((t for t in backend.last_first_us if t < first_us - SAME_STEP_US), default=0),
    )
    times = request.times
    if times is not None and times.first_token_ms is not None:
        begin = max(request.started.t_us, first_us - round(times.first_token_ms * 1000))
    request.prefill_tokens = tokens
    request.prefill_bins = {}
    spread(request.prefill_bins, tokens * 1000, max(begin, settled_us), max(first_us, settled_us))


def book_unstreamed(request: OpenRequest, backend: BackendState, settled_us: int) -> None:
    """At the end of an answer that was not streamed: lay its work by the engine's own times, else evenly.

    Without times the decode is taken to run at the speed of the backend's other requests up to the end.
    """
    assert request.finished_us is not None
    end, start = request.finished_us, request.started.t_us
    usage = request.usage
    tokens = (usage.completion_tokens if usage is not None else None) or 0
    times = request.times
    if times is not None and times.generation_ms is not None:
        decode_us = round(times.generation_ms * 1000)
    else:
        decode_us = round(max(tokens - 1, 0) / max(backend.tokens_per_s, 0.1) * 1e6)
    first = max(start, end - decode_us)
    request.first_us = first if tokens else None
    book_prefill(request, backend, first, settled_us)
    request.decode_bins = {}
    if tokens:
        spread(request.decode_bins, tokens * 1000, max(first, settled_us), max(end, settled_us))


def assumed_decode(request: OpenRequest, backend: BackendState, t0_us: int, t1_us: int) -> int:
    """Decode work, in thousandths of a token, of an unstreamed request still in flight over [t0_us, t1_us).

    Nothing is seen of it before its end, so it is taken to decode as fast as its neighbours.
    """
    begin = max(t0_us, request.started.t_us)
    return max(round((t1_us - begin) / 1e3 * backend.tokens_per_s), 0)
