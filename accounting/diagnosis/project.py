"""The same work served another way: at another batch, at other prices, without a part of it.

Work of the six features (`ledger.model.FEATURES`) that makes N tokens at mean batch B takes S = N / B steps:

    E(B) = S (p_steps + p_lg log2(1 + B)) + p_pre PRE + p_preq PREQ + p_dec DEC + p_kv KV      joules
    T(B) = the same with the seconds of a unit for its joules

with the prices p and times of the ledger's regressions. Requests that come at random are L = N T(B) / (S w)
at a time, in w seconds (Little's law). While there are any they are L / (1 - exp(-L)), as of a Poisson number
(M/G/infinity): that is their batch. As T depends on it, it is found by trying again. `limit` holds it down.

What is not busy is idle: over the same w a way of serving draws E + static power x (w - T).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, inf, log2

from accounting.diagnosis.window import DEC, KV, LG, PRE, PREQ, STEPS
from accounting.records import BackendFacts

ROUNDS = 200
MOST_BATCH = 4096.0
"""The largest max_num_seqs of arXiv 2601.22076."""


@dataclass(frozen=True, slots=True)
class Load:
    """Work that came within `seconds`. Token counts; `reads` are features of the work model."""

    seconds: float
    tokens: float
    prompt: float
    prompt_reads: float
    decoded: float
    decoded_reads: float

    def scaled(self, by: float) -> Load:
        return self.parts(by, by)

    def parts(self, prompt: float, decode: float) -> Load:
        """Only these parts of prompts and of answers."""
        return Load(
            self.seconds,
            self.tokens * decode,
            self.prompt * prompt,
            self.prompt_reads * prompt,
            self.decoded * decode,
            self.decoded_reads * decode,
        )


@dataclass(frozen=True, slots=True)
class Prices:
    """Joules or seconds per unit of each feature."""

    of: Sequence[float]

    def fixed(self, load: Load) -> float:
        """What does not depend on the batch."""
        p = self.of
        prompts = p[PRE] * load.prompt + p[PREQ] * load.prompt_reads
        return prompts + p[DEC] * load.decoded + p[KV] * load.decoded_reads

    def whole(self, load: Load, batch: float) -> float:
        steps = load.tokens / batch
        return self.fixed(load) + steps * (self.of[STEPS] + self.of[LG] * log2(1.0 + batch))


@dataclass(frozen=True, slots=True)
class Served:
    """A way of serving: energy while busy in joules, seconds busy, mean batch."""

    energy_j: float = 0.0
    busy_s: float = 0.0
    steps: float = 0.0
    tokens: float = 0.0

    @property
    def batch(self) -> float:
        return self.tokens / self.steps if self.steps else 0.0

    def plus(self, other: Served) -> Served:
        return Served(
            self.energy_j + other.energy_j,
            self.busy_s + other.busy_s,
            self.steps + other.steps,
            self.tokens + other.tokens,
        )

    def drawn_j(self, seconds: float, static_w: float) -> float:
        """With the idle power of what is left of so many seconds."""
        return self.energy_j + static_w * max(seconds - self.busy_s, 0.0)


def load_of(facts: BackendFacts) -> Load:
    """A minute's work."""
    work = facts.work
    return Load(facts.settled_us / 1e6, facts.tokens, work[PRE], work[PREQ], work[DEC], work[KV])


def total(loads: Sequence[Load]) -> Load:
    return Load(
        sum(load.seconds for load in loads),
        sum(load.tokens for load in loads),
        sum(load.prompt for load in loads),
        sum(load.prompt_reads for load in loads),
        sum(load.decoded for load in loads),
        sum(load.decoded_reads for load in loads),
    )


def as_it_came(facts: Sequence[BackendFacts]) -> list[Load]:
    """The work of these minutes, moved to the minutes in which its requests arrived: a queue moved it."""
    worked, arrived = total([load_of(one) for one in facts]), sum(one.arrived for one in facts)
    if not arrived:
        return [load_of(one) for one in facts if one.tokens > 0]
    loads = []
    for one in facts:
        if one.arrived:
            part = worked.scaled(one.arrived / arrived)
            loads.append(Load(_came_in_s(one), *_amounts(part)))
    return loads


def _came_in_s(one: BackendFacts) -> float:
    """The time in which a minute's requests came. n of them at random in a time w lie w (n - 1) / (n + 1)
    apart, first to last."""
    whole_s = max(one.settled_us / 1e6, 1.0)
    if one.arrived < 3:
        return whole_s
    return min(max(one.arriving_us / 1e6 * (one.arrived + 1) / (one.arrived - 1), 1.0), whole_s)


def _amounts(load: Load) -> tuple[float, float, float, float, float]:
    return load.tokens, load.prompt, load.prompt_reads, load.decoded, load.decoded_reads


def at_batch(load: Load, batch: float, prices: Prices, times: Prices) -> Served:
    if load.tokens <= 0:
        return Served(prices.fixed(load), times.fixed(load))
    return Served(
        prices.whole(load, batch), times.whole(load, batch), load.tokens / max(batch, 1e-9), load.tokens
    )


def usual_batch(load: Load, times: Prices, limit: float = inf) -> float:
    """The batch that requests make that come at random, at most `limit`."""
    limit = min(limit, MOST_BATCH)
    if load.tokens <= 0 or load.seconds <= 0:
        return 1.0
    batch = 1.0
    for _ in range(ROUNDS):
        together = times.whole(load, batch) * batch / load.seconds
        new = min(together / (1.0 - exp(-together)) if together > 1e-9 else 1.0, limit)
        if abs(new - batch) < 1e-6 * batch:
            break
        batch = new
    return max(batch, 1.0)


def served(loads: Sequence[Load], prices: Prices, times: Prices, limit: float = inf) -> Served:
    """Each of the loads in its own time."""
    whole = Served()
    for load in loads:
        whole = whole.plus(at_batch(load, usual_batch(load, times, limit), prices, times))
    return whole
