"""What was done in one interval: each request's part of the work, and the sums the work model learns from.

Prompts. A prompt's work lies in its prefill window [pre0, pre1], which ends with the first token and leaves
queueing out. Tokens. Each stream event is a token or, under speculative decoding, one step's tokens.

Steps. The engine makes one token per sequence and step, so a request that decodes through the whole interval
has seen every step: the median over those is the number of steps. With none of them, the largest count is.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log2

import numpy as np
from numpy.typing import NDArray

from accounting.ledger.flights import Flights
from accounting.ledger.intervals import INTERVAL_US, RING, number
from accounting.ledger.state import BackendState

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

THROUGHOUT = 0.98
"""A request decodes through an interval when it does so for this part of it."""


@dataclass(slots=True)
class Work:
    """One backend's work in one interval. Arrays run over `rows`, the requests that had part in it."""

    rows: Ints
    in_flight_us: Ints
    tokens: Floats
    """Received, the first included."""
    firsts: Floats
    """1 where the first token came in this interval."""
    prompt: Floats
    """Prompt tokens computed."""
    prompt_reads: Floats
    """The same times the context each attends to."""
    decoded: Floats
    reads: Floats
    """Context read by the decoded tokens, summed."""
    context: Floats
    """Context that each of a request's tokens reads, on average."""
    assumed: Floats
    """Of the tokens, those assumed of answers that are not streamed and still under way."""
    sequences: Floats
    steps: float
    steps_seen: bool
    """Whether a stream that decoded throughout has told the steps."""
    others_tokens: float = 0.0
    others_prompt: float = 0.0
    """Work for requests that did not pass the proxy (`bypass.py`)."""

    @property
    def all_tokens(self) -> float:
        return float(self.tokens.sum()) + self.others_tokens

    @property
    def batch(self) -> float:
        return self.all_tokens / self.steps if self.steps > 0 else 0.0

    @property
    def step_log(self) -> float:
        return self.steps * log2(1.0 + self.batch)

    def sums(self) -> list[float]:
        """The features of the work model, summed over the requests."""
        return [
            self.steps,
            self.step_log,
            float(self.prompt.sum()) + self.others_prompt,
            float(self.prompt_reads.sum()) + self.others_prompt * self._mean(self.prompt_reads, self.prompt),
            float(self.decoded.sum()) + self.others_tokens,
            float(self.reads.sum()) + self.others_tokens * self._mean(self.reads, self.decoded),
        ]

    def recount(self) -> None:
        """Tokens were changed. Where no stream has told the steps, the sequence that got most tokens does."""
        if not self.steps_seen:
            self.steps = float((self.tokens / self.sequences).max(initial=0.0))

    def assume(self, factor: float) -> None:
        """Something tells how fast the unseen answers really decode: this many times what was assumed."""
        more = self.assumed * (factor - 1.0)
        self.assumed = self.assumed * factor
        self.tokens, self.decoded = self.tokens + more, self.decoded + more
        self.reads = self.decoded * self.context

    @staticmethod
    def _mean(reads: Floats, tokens: Floats) -> float:
        """Context per token; others' work is taken to be like ours."""
        whole = float(tokens.sum())
        return float(reads.sum()) / whole if whole > 0 else 0.0

    def others_joules(self, prices: Floats) -> float:
        """What the work for others should have cost."""
        tokens, prompt = self.others_tokens, self.others_prompt
        if tokens <= 0 and prompt <= 0:
            return 0.0
        per_token = float(prices[4] + prices[5] * self._mean(self.reads, self.decoded))
        per_prompt = float(prices[2] + prices[3] * self._mean(self.prompt_reads, self.prompt))
        return tokens * (self.step_joules(prices) + per_token) + prompt * per_prompt

    def step_joules(self, prices: Floats) -> float:
        """What a step costs at any batch size, per token that came of it."""
        tokens = self.all_tokens
        return float(prices[0] * self.steps + prices[1] * self.step_log) / tokens if tokens > 0 else 0.0

    def joules(self, prices: Floats) -> tuple[Floats, Floats]:
        """What each request's prefill and decode should have cost. What a step costs at any batch size is
        shared by the tokens that came of it."""
        per_token = self.step_joules(prices)
        prefill = prices[2] * self.prompt + prices[3] * self.prompt_reads + per_token * self.firsts
        decode = prices[4] * self.decoded + prices[5] * self.reads + per_token * (self.tokens - self.firsts)
        return prefill, decode


def present(flights: Flights, group: int, t0_us: int, t1_us: int) -> Ints:
    """Rows of the group's requests that were in flight in [t0_us, t1_us) or have work booked there."""
    n = flights.rows
    ends, begins = flights.end[:n], flights.start[:n]
    mine = (flights.group[:n] == group) & (begins < t1_us) & ~flights.concluded[:n]
    there = (ends == 0) | (ends > t0_us) | ((flights.pre1[:n] >= t0_us) & (flights.pre1[:n] > ends))
    rows = np.flatnonzero(mine)
    late = flights.tokens[number(t0_us) % RING, rows] > 0
    return flights.in_order(rows[there[rows] | late])


def work_of(flights: Flights, backend: BackendState, rows: Ints, t0_us: int, t1_us: int) -> Work:
    """The work that the requests in `rows`, all of one backend, did in [t0_us, t1_us)."""
    start, first, end = flights.start[rows], flights.first[rows], flights.end[rows]
    open_end = np.where(end == 0, t1_us, np.minimum(end, t1_us))
    in_flight = np.maximum(open_end - np.maximum(start, t0_us), 0)
    tokens = flights.tokens[number(t0_us) % RING, rows]
    # Nothing is seen of an unstreamed answer before its end: take it to decode as fast as its neighbours.
    unseen = (~flights.streamed[rows]) & (flights.seen[rows] == 0) & (end == 0)
    decoding_us = np.maximum(open_end - np.maximum(flights.pre1[rows], t0_us), 0)
    assumed = np.minimum(decoding_us, in_flight) / 1e6 * (backend.tokens_per_s * flights.seqs[rows])
    assumed = np.where(unseen & (tokens == 0), assumed, 0.0)
    tokens += assumed
    firsts = ((first >= t0_us) & (first < t1_us) & (tokens > 0)).astype(np.float64)
    firsts = np.minimum(firsts * flights.seqs[rows], tokens)
    part = overlap(flights.pre0[rows], flights.pre1[rows], t0_us, t1_us)
    prompt = flights.uncached[rows] * part
    cached = np.maximum(flights.prompt[rows] - flights.uncached[rows], 0.0)
    decoded = tokens - firsts
    sequences = flights.seqs[rows]
    behind = (flights.done[rows] + firsts + decoded / 2) * backend.tokens_per_event
    context = flights.prompt[rows] + behind / sequences
    through = (first > 0) & (first <= t0_us + (1 - THROUGHOUT) * INTERVAL_US)
    through &= (end == 0) | (end >= t1_us - (1 - THROUGHOUT) * INTERVAL_US)
    through &= ~unseen
    steps = _steps(tokens, sequences, through)
    return Work(
        rows=rows,
        in_flight_us=in_flight,
        tokens=tokens,
        firsts=firsts,
        prompt=prompt,
        prompt_reads=prompt * (cached + flights.uncached[rows] / 2),
        decoded=decoded,
        reads=decoded * context,
        context=context,
        assumed=assumed,
        sequences=sequences,
        steps=steps,
        steps_seen=bool(through.any()),
    )


def prompt_joules(prices: Floats, uncached: float, prompt: float) -> float:
    """What a prompt of which `uncached` tokens are to be computed should cost in all."""
    return float(prices[2] * uncached + prices[3] * uncached * (prompt - uncached / 2))


def overlap(begin: Ints, end: Ints, t0_us: int, t1_us: int) -> Floats:
    """Which part of each window [begin, end] lies in [t0_us, t1_us). A window without length is a point."""
    length = end - begin
    inside = np.minimum(end, t1_us) - np.maximum(begin, t0_us)
    part: Floats = np.where(
        length > 0,
        np.clip(inside, 0, None) / np.maximum(length, 1),
        ((end >= t0_us) & (end < t1_us)).astype(np.float64),
    )
    return part


def _steps(tokens: Floats, sequences: Floats, through: NDArray[np.bool_]) -> float:
    single = through & (sequences == 1)
    if single.any():
        return float(np.median(tokens[single]))
    counts = tokens / sequences
    if through.any():
        # Some sequences of a request may have ended: those that go on tell the steps.
        return float(np.quantile(counts[through], 0.9))
    return float(counts.max(initial=0.0))
