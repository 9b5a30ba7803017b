"""An engine that batches continuously, in virtual time: from requests to steps and the truth of each request.

Like vLLM's scheduler: first every running sequence (a token, or the next chunk of its prompt), then waiting
ones in turn, within `max_num_batched_tokens`. Simpler in two points: a sequence is admitted when the KV cache
has room for all of it, so that none is preempted; and a prompt with `n` answers is computed once, then they
decode side by side, in a batch slot each.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from benchmarks.traces.demand import Request
from benchmarks.traces.scenario import Scenario
from benchmarks.traces.step import StepPhysics
from simulator.cards import BLOCK_TOKENS, kv_blocks
from simulator.physics import PrefillChunk

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

WAY_S = 0.001
"""From the proxy to the engine."""

ACCEPTED = 0.7
"""Chance that a guessed token is right, given that all before it were. Assumed."""


@dataclass(slots=True)
class Outcome:
    """What became of one request. Steps are numbers into Run.step_end_s; energies in joules, all GPUs."""

    scheduled_s: float = 0.0
    first_step: int = -1
    last_steps: list[int] = field(default_factory=list)
    """The step of the last token of each of its sequences."""
    energy_j: float = 0.0
    static_j: float = 0.0
    """The part of it that the GPUs would have drawn idling."""


@dataclass(slots=True)
class Run:
    """The steps, and the cumulative energy of all GPUs as a line through (time_s, energy_j)."""

    outcomes: list[Outcome]
    step_end_s: Floats
    time_s: Floats
    energy_j: Floats
    idle_j: float
    mean_batch: float
    """Mean number of sequences in a step."""
    busy: float
    """Share of the time from the first step to the last that steps fill."""


class _Decodes:
    """The decoding sequences, in columns kept dense."""

    def __init__(self, size: int) -> None:
        self.n = 0
        self.request = np.zeros(size, np.int64)
        self.context = np.zeros(size, np.int64)
        self.left = np.zeros(size, np.int64)
        self.energy_j = np.zeros(size)
        self.static_j = np.zeros(size)
        self.columns = (self.request, self.context, self.left, self.energy_j, self.static_j)

    def add(self, request: int, context: int, left: int) -> None:
        for column, value in zip(self.columns, (request, context, left, 0, 0), strict=True):
            column[self.n] = value
        self.n += 1

    def keep(self, kept: NDArray[np.bool_]) -> None:
        count = int(kept.sum())
        for column in self.columns:
            column[:count] = column[: self.n][kept]
        self.n = count


@dataclass(slots=True)
class _Prefill:
    request: int
    done: int
    chunk: PrefillChunk | None = None


class Engine:
    def __init__(self, scenario: Scenario, requests: list[Request]) -> None:
        self._scenario, self._requests = scenario, requests
        self._random = np.random.default_rng([scenario.seed, 1])
        self._physics = StepPhysics(scenario, self._random)
        self._outcomes = [Outcome() for _ in requests]
        self._waiting: deque[int] = deque()
        self._prefills: list[_Prefill] = []
        self._decodes = _Decodes(scenario.max_num_seqs)
        self._seats = scenario.max_num_seqs
        self._kv_free = kv_blocks(scenario.model, scenario.gpu, scenario.gpus) * BLOCK_TOKENS
        self._ends: list[float] = []
        self._points: list[tuple[float, float]] = [(0.0, 0.0)]
        self._idle_w = scenario.gpus * scenario.gpu.idle_power_w
        self._idle_j = 0.0
        self._slots = 0

    def run(self, tail_s: float) -> Run:
        """Serve them all, then idle for `tail_s`."""
        now_s, arrived = 0.0, 0
        while True:
            while arrived < len(self._requests) and self._requests[arrived].arrived_s + WAY_S <= now_s:
                self._waiting.append(arrived)
                arrived += 1
            self._admit(now_s)
            if self._prefills or self._decodes.n:
                now_s = self._step(now_s)
            elif arrived < len(self._requests):
                now_s = self._idle(self._requests[arrived].arrived_s + WAY_S)
            else:
                break
        self._idle(now_s + tail_s)
        time_s, energy_j = np.array(self._points).T
        busy_s = float(sum(b[0] - a[0] for a, b in pairwise(self._points))) - self._idle_j / self._idle_w
        first_s = self._requests[0].arrived_s + WAY_S
        return Run(
            outcomes=self._outcomes,
            step_end_s=np.array(self._ends),
            time_s=time_s,
            energy_j=energy_j,
            idle_j=self._idle_j,
            mean_batch=self._slots / max(len(self._ends), 1),
            busy=busy_s / (now_s - first_s),
        )

    def _idle(self, until_s: float) -> float:
        now_s, energy_j = self._points[-1]
        idle_j = self._idle_w * (until_s - now_s)
        self._idle_j += idle_j
        self._points.append((until_s, energy_j + idle_j))
        return until_s

    def _kv_tokens(self, request: Request) -> int:
        return request.prompt_tokens + sum(request.outputs)

    def _admit(self, now_s: float) -> None:
        """Plan the chunks of this step: prompts begun before, then waiting ones as far as they fit."""
        budget = self._scenario.max_num_batched_tokens - self._decodes.n * self._physics.width
        for prefill in self._prefills:
            budget = self._plan(prefill, budget)
        while self._waiting and budget > 0:
            request = self._requests[self._waiting[0]]
            seats, kv = len(request.outputs), self._kv_tokens(request)
            if seats > self._seats or kv > self._kv_free:
                break
            self._seats -= seats
            self._kv_free -= kv
            number = self._waiting.popleft()
            self._outcomes[number].scheduled_s = now_s
            prefill = _Prefill(number, min(request.cached_tokens, request.prompt_tokens - 1))
            self._prefills.append(prefill)
            budget = self._plan(prefill, budget)

    def _plan(self, prefill: _Prefill, budget: int) -> int:
        tokens = min(self._requests[prefill.request].prompt_tokens - prefill.done, budget)
        prefill.chunk = PrefillChunk(tokens, prefill.done) if tokens > 0 else None
        return budget - max(tokens, 0)

    def _step(self, now_s: float) -> float:
        decodes, n = self._decodes, self._decodes.n
        working = [(p, p.chunk) for p in self._prefills if p.chunk is not None]
        context = decodes.context[:n]
        truth = self._physics.step(now_s, n, int(context.sum()), [chunk for _, chunk in working])
        decodes.energy_j[:n] += truth.decode_j + truth.kv_j * context
        decodes.static_j[:n] += truth.decode_static_j + truth.kv_static_j * context
        now_s += truth.time_s
        number = len(self._ends)
        self._ends.append(now_s)
        self._points.append((now_s, self._points[-1][1] + truth.energy_j))
        self._slots += n + len(working)
        self._advance(n, number)
        for (prefill, chunk), energy_j, static_j in zip(
            working, truth.chunk_j, truth.chunk_static_j, strict=True
        ):
            outcome = self._outcomes[prefill.request]
            outcome.energy_j += energy_j
            outcome.static_j += static_j
            prefill.done += chunk.tokens
            if prefill.done == self._requests[prefill.request].prompt_tokens:
                self._prefills.remove(prefill)
                self._begin(prefill.request, number)
        return now_s

    def _advance(self, n: int, number: int) -> None:
        """Every decoding sequence has got its token, or, with guessing, those that were right."""
        decodes = self._decodes
        if not n:
            return
        made = np.ones(n, np.int64)
        if drafts := self._scenario.draft_tokens:
            right = self._random.random((n, drafts)) < ACCEPTED
            made += np.cumprod(right, axis=1).sum(axis=1)
            made = np.minimum(made, decodes.left[:n])
        decodes.context[:n] += made
        decodes.left[:n] -= made
        over = decodes.left[:n] <= 0
        if over.any():
            for k in np.flatnonzero(over).tolist():
                outcome = self._outcomes[int(decodes.request[k])]
                outcome.energy_j += float(decodes.energy_j[k])
                outcome.static_j += float(decodes.static_j[k])
                self._end(int(decodes.request[k]), number)
            decodes.keep(~over)

    def _begin(self, number: int, step: int) -> None:
        """The prompt is computed: each of its sequences has its first token."""
        request, outcome = self._requests[number], self._outcomes[number]
        outcome.first_step = step
        for output in request.outputs:
            if output > 1:
                self._decodes.add(number, request.prompt_tokens + 1, output - 1)
            else:
                self._end(number, step)

    def _end(self, number: int, step: int) -> None:
        request, outcome = self._requests[number], self._outcomes[number]
        outcome.last_steps.append(step)
        self._seats += 1
        if len(outcome.last_steps) == len(request.outputs):
            self._kv_free += self._kv_tokens(request)
