"""The engine in virtual time: the same scheduler and physics, and no clock to wait for.

Hours of serving are computed in seconds. Stretches in which every running sequence only decodes are taken as
one (`Scheduler.skip`, `Physics.decode_run`); token by token nothing differs from steps taken singly. Answers
have no text, only a length. Times are in seconds since the beginning, energies in joules over all GPUs.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from simulator.physics import Physics
from simulator.scheduler import Scheduler, Sequence, Step

Floats = NDArray[np.float64]


@dataclass(eq=False, slots=True)
class Job:
    """One request. It makes a token in every step of its `spans` (first and last step, both included): more
    than one span where it was preempted in between. `cut`: it had not ended when the run did.
    """

    arrives_s: float
    prompt_tokens: int
    answer_tokens: int
    spans: list[tuple[int, int]] = field(default_factory=list)
    preemptions: int = 0
    cached_tokens: int = 0
    cut: bool = False

    @property
    def made(self) -> int:
        """Tokens that it has made."""
        return sum(last - first + 1 for first, last in self.spans)

    @property
    def first_step(self) -> int:
        """The step that made its first token. Raises IndexError before it is there."""
        return self.spans[0][0]

    @property
    def last_step(self) -> int:
        """The step that made its last token. Raises IndexError before it is there."""
        return self.spans[-1][1]


@dataclass(frozen=True, slots=True)
class Course:
    """What the GPUs did: step k ended at `step_end_s[k]` and made `step_tokens[k]` tokens.

    Cumulative energy is linear between the points (`time_s`, `energy_j`); `idle_j` of it lay between steps.
    `looks` are what an engine's gauges showed after steps, one row each: time in seconds, requests running
    and waiting, part of the KV cache in use, preemptions so far.
    """

    jobs: list[Job]
    step_end_s: Floats
    step_tokens: Floats
    time_s: Floats
    energy_j: Floats
    idle_j: float
    looks: Floats

    def energy_at(self, time_s: Floats) -> Floats:
        """Cumulative energy at these times."""
        return np.interp(time_s, self.time_s, self.energy_j)


class VirtualEngine:
    """Serves jobs as they arrive. `idle_power_w` is that of all GPUs together."""

    def __init__(self, physics: Physics, scheduler: Scheduler, idle_power_w: float) -> None:
        self._physics = physics
        self._scheduler = scheduler
        self._idle_w = idle_power_w
        self._jobs: dict[Sequence, Job] = {}
        self._open: dict[Sequence, int] = {}  # the step with which the span of each decoding one began
        self._ends: list[Floats] = []
        self._tokens: list[Floats] = []
        self._times: list[Floats] = [np.zeros(1)]
        self._energies: list[Floats] = [np.zeros(1)]
        self._steps = 0
        self._left = 0  # so many have to end yet
        self._now_s = 0.0
        self._energy_j = 0.0
        self._idle_j = 0.0
        self._looks: list[tuple[float, int, int, float, int]] = []

    def run(
        self, jobs: Iterable[Job], tail_s: float = 0.0, *, filled: bool = False, enough: int | None = None
    ) -> Course:
        """Serve all jobs to their end (or cut them off when `enough` have ended), then idle for `tail_s`.

        `filled`: it begins with a full batch, the prompts of all that fit being in the KV cache already: the
        first step makes each one's first token and costs what a decode step does. Raises ValueError for a job
        that could outgrow the KV cache.
        """
        arriving = sorted(jobs, key=lambda job: job.arrives_s)
        position = 0
        self._left = len(arriving) if enough is None else min(enough, len(arriving))
        while self._left > 0:
            while position < len(arriving) and arriving[position].arrives_s <= self._now_s:
                self._submit(arriving[position], position)
                position += 1
            next_s = arriving[position].arrives_s if position < len(arriving) else None
            if not self._scheduler.busy:
                if next_s is None:
                    break
                self._idle(next_s)
            elif filled:
                filled = False
                usual = self._scheduler.max_num_batched_tokens
                self._scheduler.max_num_batched_tokens = sys.maxsize
                self._step(cached=True)
                self._scheduler.max_num_batched_tokens = usual
            elif quiet := self._scheduler.quiet_steps():
                self._skip(quiet, next_s)
            else:
                self._step()
        self._cut(arriving[position:])
        self._idle(self._now_s + tail_s)
        return Course(
            arriving,
            np.concatenate(self._ends) if self._ends else np.zeros(0),
            np.concatenate(self._tokens) if self._tokens else np.zeros(0),
            np.concatenate(self._times),
            np.concatenate(self._energies),
            self._idle_j,
            np.array(self._looks).reshape(-1, 5),
        )

    def _submit(self, job: Job, number: int) -> None:
        # The first token is its own, so that no two prompts share a prefix.
        tokens = [-1 - number, *([0] * (job.prompt_tokens - 1))]
        sequence = Sequence(job.prompt_tokens, job.answer_tokens, tokens)
        self._scheduler.add(sequence)
        self._jobs[sequence] = job

    def _cut(self, late: list[Job]) -> None:
        """Everybody still here goes, and who has not come need not."""
        for sequence, job in self._jobs.items():
            self._scheduler.abort(sequence)
            job.cut = True
            if (first := self._open.pop(sequence, None)) is not None:
                job.spans.append((first, self._steps - 1))
        self._jobs.clear()
        for job in late:
            job.cut = True

    def _idle(self, until_s: float) -> None:
        idle_j = self._idle_w * (until_s - self._now_s)
        self._idle_j += idle_j
        self._now_s = until_s
        self._energy_j += idle_j
        self._times.append(np.array([self._now_s]))
        self._energies.append(np.array([self._energy_j]))

    def _skip(self, quiet: int, next_s: float | None) -> None:
        running = self._scheduler.running
        context = sum(sequence.computed for sequence in running)
        took_s, drew_j = self._physics.decode_run(len(running), context, quiet)
        if next_s is not None:  # the step in which somebody arrives is the last of them
            quiet = min(quiet, int(np.searchsorted(np.cumsum(took_s), next_s - self._now_s)) + 1)
        self._scheduler.skip(quiet)
        self._took(took_s[:quiet], drew_j[:quiet], len(running))

    def _step(self, cached: bool = False) -> None:
        step = self._scheduler.schedule()
        for sequence in step.preempted:
            self._jobs[sequence].preemptions += 1
            if (first := self._open.pop(sequence, None)) is not None:
                self._jobs[sequence].spans.append((first, self._steps - 1))
        if not step.tokens:
            return
        chunks = [prefill.chunk for prefill in step.prefill]
        context = sum(sequence.computed for sequence in step.decode)
        if cached:
            cached_tokens = sum(chunk.tokens for chunk in chunks)
            time_s, energy_j = self._physics.totals(len(chunks), cached_tokens, ())
            for prefill in step.prefill:
                self._jobs[prefill.sequence].cached_tokens = prefill.chunk.tokens - 1
        else:
            time_s, energy_j = self._physics.totals(len(step.decode), context, chunks)
        made = self._scheduler.complete(step, lambda _: 0)
        self._note(step)
        self._took(np.array([time_s]), np.array([energy_j]), len(made))

    def _note(self, step: Step) -> None:
        """Spans that begin and end with this step."""
        decoding = set(step.decode) if step.admitted else set()
        for prefill in step.prefill:
            if prefill.last:
                self._open[prefill.sequence] = self._steps
        for sequence in step.admitted:  # one that was preempted may find all that it had in the prefix cache
            if sequence.output_tokens and sequence not in self._open and sequence in decoding:
                self._open[sequence] = self._steps
        for sequence in (*step.decode, *(prefill.sequence for prefill in step.prefill if prefill.last)):
            if sequence.output_tokens >= sequence.limit:
                self._jobs.pop(sequence).spans.append((self._open.pop(sequence), self._steps))
                self._left -= 1

    def _took(self, took_s: Floats, drew_j: Floats, tokens: int) -> None:
        """Steps have run: the clock, the curve."""
        ends_s = self._now_s + np.cumsum(took_s)
        energy_j = self._energy_j + np.cumsum(drew_j)
        self._ends.append(ends_s)
        self._tokens.append(np.full(len(ends_s), float(tokens)))
        self._times.append(ends_s)
        self._energies.append(energy_j)
        self._steps += len(ends_s)
        self._now_s, self._energy_j = float(ends_s[-1]), float(energy_j[-1])
        queue = self._scheduler
        state = len(queue.running), len(queue.waiting), queue.cache.usage, queue.preemptions
        self._looks.append((self._now_s, *state))
