"""Replicas of an engine in virtual time: what they are asked, what they do, what their GPUs draw."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from loadgen.lengths import answer_tokens, draw_answer, draw_prompt
from simulator.physics import Physics
from simulator.power_limit import LimitedPhysics
from simulator.scheduler import Scheduler
from simulator.virtual import Course, Job, VirtualEngine

FIRST_S = 6.0
"""The first request comes after so much idle time: idle power is learnt from it."""

TAIL_S = 3.0


@dataclass(frozen=True, slots=True)
class Ask:
    """One request. `leaves`: its client goes away after this many tokens."""

    at_s: float
    prompt_tokens: int
    answer_tokens: int
    leaves: int | None = None


@dataclass(frozen=True, slots=True)
class Replica:
    """One engine. Powers are those of all its GPUs together."""

    name: str
    physics: Physics
    gpus: int
    idle_w: float
    tdp_w: float
    kv_blocks: int
    asks: list[Ask] = field(default_factory=list)
    max_num_seqs: int = 256
    limit_w: float | None = None
    busy_w: float = 0.0
    waits: bool = True
    """Whether requests come when they come, and wait; else as many clients as seats each send their next one
    when they have the answer to the last."""


@dataclass(frozen=True, slots=True)
class Served:
    """A replica and what it did. `asks` lie in the order of `course.jobs`."""

    replica: Replica
    asks: list[Ask]
    course: Course

    @property
    def end_s(self) -> float:
        return float(self.course.time_s[-1])

    def energy_j(self, t0_s: float, t1_s: float) -> float:
        """True energy between two times; after its end it idles."""
        edges = np.array([t0_s, t1_s])
        idle_s = np.maximum(edges - self.end_s, 0.0)
        joules = self.course.energy_at(edges) + self.replica.idle_w * idle_s
        return float(joules[1] - joules[0])

    def ttft_s(self) -> list[float]:
        """Of each request that made a token: from its arrival to the first."""
        ends = self.course.step_end_s
        return [float(ends[job.first_step]) - job.arrives_s for job in self.course.jobs if job.spans]

    def itl_s(self) -> list[float]:
        """Of each request of several tokens: mean time between two."""
        ends = self.course.step_end_s
        return [
            float(ends[job.last_step] - ends[job.first_step]) / (job.made - 1)
            for job in self.course.jobs
            if job.spans and job.made > 1
        ]


def serve(replica: Replica) -> Served:
    """All of its requests, to their end."""
    asks = sorted(replica.asks, key=lambda ask: ask.at_s)
    jobs = [
        Job(ask.at_s, ask.prompt_tokens, ask.answer_tokens if ask.leaves is None else ask.leaves)
        for ask in asks
    ]
    scheduler = Scheduler(kv_blocks=replica.kv_blocks, max_num_seqs=replica.max_num_seqs)
    physics = replica.physics
    if replica.limit_w is not None:
        physics = LimitedPhysics(physics, replica.limit_w, replica.busy_w)
    return Served(replica, asks, VirtualEngine(physics, scheduler, replica.idle_w).run(jobs, TAIL_S))


def poisson(
    seed: int,
    per_s: float,
    seconds: float,
    prompt: float,
    answer: float,
    task: str = "chat",
) -> list[Ask]:
    """Requests that come at random, `per_s` of them a second; lengths spread as the task's."""
    pick, parts = random.Random(seed), answer_tokens(task, None, answer)
    asks, at_s = [], FIRST_S
    while (at_s := at_s + pick.expovariate(per_s)) < seconds:
        asks.append(Ask(at_s, draw_prompt(pick, prompt), draw_answer(pick, parts)))
    return asks


def dealt(asks: Iterable[Ask], ways: int) -> list[list[Ask]]:
    """The requests in turn to so many replicas."""
    whole = list(asks)
    return [whole[n::ways] for n in range(ways)]
