"""When a request's work was done, as far as its events tell: prefill windows and tokens laid into time.

Energy is given once: work that would fall into time that is settled and no longer kept is booked where the
kept time begins, so that it is charged late rather than never.
"""

from __future__ import annotations

from accounting.ledger.flights import Flights
from accounting.ledger.intervals import INTERVAL_US, RING, number
from accounting.ledger.state import BackendState

SAME_STEP_US = 3_000
"""First tokens closer than this come from one engine step."""

WINDOW_FACTOR = 1.5
WINDOW_SLACK_US = 30_000
"""A prefill lasts at most this much longer than a quick one of its length: the rest was queueing."""

LONG_PROMPT = 200
"""Prompts above this teach how long a prompt token takes."""

SPECULATIVE = 1.25
"""Tokens per stream event above which an engine is taken to decode speculatively."""

MOST_PER_EVENT = 20.0

WAITS = 100
FEW_WAITS = 10
FASTEST = 0.6
"""No prompt token takes less than this part of a quick one's time."""

CACHED_MEMORY = 0.05
FIRSTS = 64


def add_tokens(flights: Flights, row: int, count: float, t0_us: int, t1_us: int, settled_us: int) -> None:
    """Lay `count` tokens evenly over [t0_us, t1_us], none before `settled_us`."""
    begin, end = max(t0_us, settled_us), max(t1_us, settled_us)
    last_open = number(settled_us) + RING - 1
    first, last = min(number(begin), last_open), min(number(end), last_open)
    if first == last or end <= begin:
        flights.tokens[last % RING, row] += count
        return
    laid = 0.0
    for k in range(first, last + 1):
        upto = count if k == last else count * ((k + 1) * INTERVAL_US - begin) / (end - begin)
        flights.tokens[k % RING, row] += upto - laid
        laid = upto


def assume_prompt(flights: Flights, row: int, backend: BackendState) -> None:
    """Fill in the prompt's size: as the engine reported, else guessed from the size of the body."""
    told = flights.teller(row)
    usage = told.usage
    if usage is not None and usage.prompt_tokens is not None:
        prompt = float(max(usage.prompt_tokens, 1))
        cached = float(usage.cached_tokens or 0)
    else:
        prompt = backend.prompt_sizes.tokens(told.started.body_bytes)
        cached = prompt * backend.cached_part
    flights.prompt[row] = prompt
    flights.uncached[row] = max(prompt - cached, 1.0)


def book_prefill(flights: Flights, row: int, backend: BackendState, first_us: int, floor_us: int) -> None:
    """Give the prompt its window before the first token, leaving queueing free; none before `floor_us`.

    The engine works off prompts in turn, so the prefill began no earlier than the latest other first token;
    and it lasts no longer than its length allows. Where the engine gave its own times, they decide.
    """
    told = flights.teller(row)
    assume_prompt(flights, row, backend)
    start = int(flights.start[row])
    times = told.times
    if times is not None and times.first_token_ms is not None:
        begin = max(start, first_us - round(times.first_token_ms * 1000))
    else:
        if told.usage is None:
            _bound_prompt(flights, row, backend, first_us)
        quick_us = backend.us_per_prompt_token * float(flights.uncached[row])
        others = max((t for t in backend.last_first_us if t < first_us - SAME_STEP_US), default=0)
        begin = max(start, others, first_us - round(WINDOW_FACTOR * quick_us) - WINDOW_SLACK_US)
    flights.pre0[row] = max(min(begin, first_us), floor_us)
    flights.pre1[row] = max(first_us, floor_us)


def _bound_prompt(flights: Flights, row: int, backend: BackendState, first_us: int) -> None:
    """A first token that came soon says that much of the prompt was cached: nothing computes faster."""
    if len(backend.waits) < FEW_WAITS:
        return
    fastest_us = FASTEST * backend.us_per_prompt_token
    most = max(first_us - int(flights.start[row]), 0) / fastest_us + 1
    prompt = float(flights.prompt[row])
    flights.uncached[row] = (
        min(float(flights.uncached[row]), most) if most < prompt else flights.uncached[row]
    )


def note_first(backend: BackendState, first_us: int) -> None:
    backend.last_first_us = [*backend.last_first_us[-FIRSTS:], first_us]


def expect_prompt(flights: Flights, row: int, backend: BackendState) -> None:
    """Of an answer that is not streamed nothing is seen before its end: its prompt is taken to be computed at
    once, and quickly; from then on it is taken to decode."""
    start = int(flights.start[row])
    flights.pre0[row] = start
    flights.pre1[row] = start + round(backend.us_per_prompt_token * float(flights.uncached[row]))


def book_unstreamed(
    flights: Flights, row: int, backend: BackendState, settled_us: int, first_us: int | None
) -> None:
    """At the end of an answer that was not streamed: lay its work by the engine's own times, else by guess.

    Without times its first token came at `first_us`; where that is None too, the decode is taken to have run
    at the speed of the backend's other requests up to the end.
    """
    told = flights.teller(row)
    start, end = int(flights.start[row]), int(flights.end[row])
    usage, times = told.usage, told.times
    tokens = float((usage.completion_tokens if usage is not None else None) or 0)
    if times is not None and times.generation_ms is not None:
        decode_us = round(times.generation_ms * 1000)
    elif first_us is not None:
        decode_us = end - first_us
    else:
        steps = max(tokens / float(flights.seqs[row]) - 1, 0.0)
        decode_us = round(steps / max(backend.tokens_per_s, 0.1) * 1e6)
    first = max(start, end - decode_us)
    book_prefill(flights, row, backend, first, 0)
    flights.done[row] = 0.0
    if flights.first[row]:  # it was laid before, by guess
        flights.tokens[:, row] = 0.0
    if not tokens:
        return
    flights.first[row] = max(first, 1)
    # Settled time was charged by guess, and `news` mends that: here, only what came after is laid.
    if end > first and settled_us > first:
        flights.done[row] = tokens * min(settled_us - first, end - first) / (end - first)
    add_tokens(flights, row, tokens - float(flights.done[row]), first, end, settled_us)


def correct(flights: Flights, row: int, backend: BackendState) -> None:
    """Stream events are not exactly tokens, nor bytes prompt tokens: bring what is open to the usage."""
    usage = flights.teller(row).usage
    seen = int(flights.seen[row])
    if usage is None:
        return
    # Many more tokens than events are speculative ones: the events are the steps then, and stay.
    if usage.completion_tokens and seen and usage.completion_tokens < SPECULATIVE * seen:
        flights.tokens[:, row] *= usage.completion_tokens / seen
    if usage.prompt_tokens is not None:
        assume_prompt(flights, row, backend)


def learn(flights: Flights, row: int, backend: BackendState) -> None:
    """What a finished request teaches about its backend."""
    told = flights.teller(row)
    usage = told.usage
    if usage is None or told.status != "ok":
        return
    if usage.prompt_tokens:
        backend.prompt_sizes.learn(told.started.body_bytes, usage.prompt_tokens)
        cached = min((usage.cached_tokens or 0) / usage.prompt_tokens, 1.0)
        backend.cached_part += CACHED_MEMORY * (cached - backend.cached_part)
    first, end, start = int(flights.first[row]), int(flights.end[row]), int(flights.start[row])
    if not flights.streamed[row] or not first:
        return
    uncached = float(flights.uncached[row])
    if uncached > LONG_PROMPT:
        backend.waits = [*backend.waits[-WAITS:], (first - start) / uncached]
        backend.us_per_prompt_token = sorted(backend.waits)[len(backend.waits) // 4]
    seen = int(flights.seen[row])
    if seen and usage.completion_tokens:
        per_event = min(max(usage.completion_tokens / seen, 1.0), MOST_PER_EVENT)
        backend.tokens_per_event += 0.1 * (per_event - backend.tokens_per_event)
    tokens = (usage.completion_tokens or 0) / float(flights.seqs[row])
    if end - first > INTERVAL_US / 5 and tokens > 1:
        speed = (tokens - 1) / ((end - first) / 1e6)
        backend.tokens_per_s += 0.1 * (speed - backend.tokens_per_s)
