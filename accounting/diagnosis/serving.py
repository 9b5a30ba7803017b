"""An engine that is not there: requests like the present ones, served by the learnt times and prices.

Continuous batching as vLLM does it: each step makes a token for every running sequence and computes up to
CHUNK tokens of prompts; who finds no seat or no KV cache waits. A step takes, and costs, what the work model
says of its features. Requests come at random (Poisson) and are drawn from those that were seen.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from math import inf, log2, sqrt
from typing import NamedTuple

from accounting.diagnosis.project import Prices
from accounting.diagnosis.window import DEC, KV, LG, PRE, PREQ, STEPS

CHUNK = 8192
"""vLLM's usual max_num_batched_tokens on data-center GPUs."""

MOST_WAITING = 2_000
"""With so many waiting it is overloaded: the rest of the run would tell nothing more."""


class Asked(NamedTuple):
    """One request that was seen."""

    prompt: int
    cached: int
    answer: int


@dataclass(frozen=True, slots=True)
class Engine:
    """What serves. `kv_tokens`: room of its KV cache, None: not known and taken as enough."""

    prices: Prices
    times: Prices
    static_w: float
    seats: int
    kv_tokens: float | None = None


@dataclass(slots=True)
class Run:
    """What came of it. Powers are means over the run."""

    seconds: float = 0.0
    busy_s: float = 0.0
    energy_j: float = 0.0
    tokens: float = 0.0
    steps: float = 0.0
    most_running: int = 0
    overloaded: bool = False
    ttft_s: list[float] = field(default_factory=list)
    itl_s: list[float] = field(default_factory=list)
    """Of each request of several tokens: mean time between two."""

    @property
    def power_w(self) -> float:
        return self.energy_j / self.seconds if self.seconds else 0.0

    @property
    def batch(self) -> float:
        return self.tokens / self.steps if self.steps else 0.0


@dataclass(slots=True)
class _Sequence:
    """`left`: tokens of the prompt to compute, after `context` that are in the KV cache."""

    came_s: float
    left: int
    answer: int
    context: int
    first_s: float = 0.0


def percentile(values: Sequence[float], percent: float) -> float | None:
    """The value that so many percent are not above; None of nothing."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * percent / 100), len(ordered) - 1)]


def run(
    engine: Engine, mix: Sequence[Asked], per_s: float, requests: int, *, ways: int = 1, seed: int = 1
) -> Run:
    """Serve so many requests drawn from `mix`, `per_s` of them a second, and a warm-up of a fifth as many.

    The engine is one of `ways` that get the requests in turn.
    """
    arrivals = _arrivals(mix, per_s, requests + requests // 5, ways, seed)
    return _Server(engine, arrivals, requests // 5).serve()


def _arrivals(mix: Sequence[Asked], per_s: float, requests: int, ways: int, seed: int) -> list[_Sequence]:
    pick = random.Random(seed)
    at_s, arrivals = 0.0, []
    for _ in range(requests):
        # Drawn apart, so that another rate brings the same requests.
        gap, asked = pick.gammavariate(ways, 1.0 / ways), mix[pick.randrange(len(mix))]
        at_s += gap / per_s
        computed = max(asked.prompt - asked.cached, 1)
        arrivals.append(_Sequence(at_s, computed, max(asked.answer, 1), asked.prompt - computed))
    return arrivals


class _Server:
    def __init__(self, engine: Engine, arrivals: list[_Sequence], warm: int) -> None:
        self._engine, self._arrivals = engine, deque(arrivals)
        self._begin_s = arrivals[warm].came_s if warm < len(arrivals) else 0.0
        self._waiting: deque[_Sequence] = deque()
        self._computing: deque[_Sequence] = deque()
        self._running: list[tuple[int, int, _Sequence]] = []
        """A heap: the step with which each ends, a number, itself. None is touched in between."""
        self._number = self._steps = 0
        self._now_s = 0.0
        self._context = 0
        """Of all that run, together."""
        self._held = 0
        self._run = Run()

    def serve(self) -> Run:
        out = self._run
        while self._arrivals or self._waiting or self._computing or self._running:
            while self._arrivals and self._arrivals[0].came_s <= self._now_s:
                self._waiting.append(self._arrivals.popleft())
            if not self._arrivals:
                break  # what follows the last arrival is no steady state
            if len(self._waiting) > MOST_WAITING:
                out.overloaded = True
                break
            self._admit()
            if self._computing:
                self._step()
            elif self._running:
                self._decode()
            else:
                self._idle(self._arrivals[0].came_s)
        out.seconds = max(self._now_s - self._begin_s, 1e-9)
        return out

    def _admit(self) -> None:
        room = self._engine.kv_tokens or inf
        while self._waiting and len(self._running) + len(self._computing) < self._engine.seats:
            first = self._waiting[0]
            needs = first.context + first.left + first.answer
            if self._held + needs > room and (self._running or self._computing):
                return
            self._held += needs
            self._computing.append(self._waiting.popleft())

    def _step(self) -> None:
        """One step that computes prompts, too."""
        budget = max(CHUNK - len(self._running), 1)
        tokens = reads = 0.0
        ready: list[_Sequence] = []
        while self._computing and budget > 0:
            first = self._computing[0]
            part = min(first.left, budget)
            tokens += part
            reads += part * (first.context + part / 2)
            first.context += part
            first.left -= part
            budget -= part
            if first.left:
                break
            ready.append(self._computing.popleft())
        self._take(1, tokens, reads, len(self._running) + len(ready))
        for sequence in ready:
            sequence.first_s = self._now_s
            if self._counts:
                self._run.ttft_s.append(self._now_s - sequence.came_s)
            if sequence.answer > 1:
                self._number += 1
                heappush(self._running, (self._steps + sequence.answer - 1, self._number, sequence))
                self._context += sequence.context
            else:
                self._held -= sequence.context + sequence.answer
        self._run.most_running = max(self._run.most_running, len(self._running))
        self._end()

    def _decode(self) -> None:
        """Steps without prompts, up to the next arrival or end."""
        steps = self._running[0][0] - self._steps
        if self._arrivals:
            steps = min(steps, self._steps_within(self._arrivals[0].came_s - self._now_s))
        self._take(max(steps, 1), 0.0, 0.0, len(self._running))
        self._end()

    def _steps_within(self, seconds: float) -> int:
        """As many steps as begin in this time: contexts grow by one in each."""
        batch, t = len(self._running), self._engine.times.of
        once = t[STEPS] + t[LG] * log2(1 + batch) + t[DEC] * batch + t[KV] * self._context
        grows = t[KV] * batch
        if grows <= 0:
            return int(seconds / once) + 1 if once > 0 else 1
        return int((sqrt((once - grows / 2) ** 2 + 2 * grows * seconds) - once + grows / 2) / grows) + 1

    def _take(self, steps: int, tokens: float, reads: float, made: int) -> None:
        """Time and energy of so many steps; each makes `made` tokens, and all running ones decode."""
        decodes = len(self._running)
        work = [0.0] * 6
        work[STEPS], work[LG] = steps, steps * log2(1 + made)
        work[PRE], work[PREQ], work[DEC] = tokens, reads, steps * decodes
        work[KV] = steps * self._context + decodes * steps * (steps - 1) / 2
        took_s = sum(w * t for w, t in zip(work, self._engine.times.of, strict=True))
        self._now_s += took_s
        self._steps += steps
        self._context += decodes * steps
        if self._counts:
            out = self._run
            out.energy_j += sum(w * p for w, p in zip(work, self._engine.prices.of, strict=True))
            out.busy_s += took_s
            out.steps += steps
            out.tokens += steps * made

    def _end(self) -> None:
        while self._running and self._running[0][0] <= self._steps:
            _, _, sequence = heappop(self._running)
            self._context -= sequence.context + sequence.answer - 1
            self._held -= sequence.context + sequence.answer
            if self._counts:
                self._run.itl_s.append((self._now_s - sequence.first_s) / (sequence.answer - 1))

    def _idle(self, until_s: float) -> None:
        idle_s = max(until_s - self._now_s, 0.0)
        self._now_s = max(until_s, self._now_s)
        if self._counts:
            self._run.energy_j += self._engine.static_w * idle_s

    @property
    def _counts(self) -> bool:
        return self._now_s >= self._begin_s
