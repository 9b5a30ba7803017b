"""One rung of a ladder in virtual time, and its steady state.

The paper sends all requests at once and measures from when max_num_seqs of them have their first token until
so few are left that the batch may not be full. A long time after such a start the requests in the batch are
at all stages of their answers, long answers more often than short ones. Here the run begins in that state,
to be short: the first ones have part of their answer behind them, as one prompt with it, in the KV cache.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from loadgen.lengths import answer_tokens, draw_answer, draw_prompt
from simulator.cards import BLOCK_TOKENS
from simulator.physics import Physics
from simulator.profiles import Profile
from simulator.scheduler import Scheduler
from simulator.virtual import Course, Job, VirtualEngine

TAIL_S = 8.0
"""Idle time after the last token: enough for the ledger to settle everything."""

QUIET_S = 2.0
"""Idle time before the first request."""


LEAST_FRESH, MOST_FRESH = 12, 256
"""Requests that start while the batch is full: as many as are in it, within these bounds."""


class Gpus(NamedTuple):
    """What the physics does not know: the KV cache's room, and the power of all GPUs without work."""

    kv_tokens: int
    idle_power_w: float


@dataclass(frozen=True, slots=True)
class Steady:
    """A run and its steady state: from `begin_s` to `end_s`. Energies are the GPUs' true ones."""

    course: Course
    begin_s: float
    end_s: float
    batch: float
    tokens_per_s: float
    joules_per_token: float


def run(lengths: Profile, physics: Physics, gpus: Gpus, max_num_seqs: int, seed: int = 1) -> Steady:
    """Serve with at most `max_num_seqs` sequences at a time: a batch at all stages, then fresh requests as
    others end; who is left is cut off. Lengths of prompts and answers are those of the profile."""
    pick = random.Random(seed)
    parts = answer_tokens(lengths.task, lengths.model, lengths.answer_tokens)
    full = max(1, min(max_num_seqs, int(gpus.kv_tokens / lengths.context_tokens)))
    fresh = min(max(full, LEAST_FRESH), MOST_FRESH)
    jobs = [_begun(pick, lengths.prompt_tokens, parts) for _ in range(full)]
    jobs += [
        Job(QUIET_S, draw_prompt(pick, lengths.prompt_tokens), draw_answer(pick, parts)) for _ in range(fresh)
    ]
    scheduler = Scheduler(kv_blocks=gpus.kv_tokens // BLOCK_TOKENS, max_num_seqs=max_num_seqs)
    course = VirtualEngine(physics, scheduler, gpus.idle_power_w).run(jobs, TAIL_S, filled=True, enough=fresh)
    begin_s, end_s = float(course.step_end_s[0]), float(course.step_end_s[-1])
    inside = (course.step_end_s > begin_s) & (course.step_end_s <= end_s)
    tokens = float(course.step_tokens[inside].sum())
    energy_j = float(np.diff(course.energy_at(np.array([begin_s, end_s])))[0])
    batch = float(course.step_tokens[inside].mean())
    return Steady(course, begin_s, end_s, batch, tokens / (end_s - begin_s), energy_j / tokens)


def _begun(pick: random.Random, prompt: float, parts: list[float]) -> Job:
    """A request somewhere in its answer: one of L tokens is there L times as often as one of 1 token."""
    long = parts[pick.choices(range(len(parts)), weights=parts)[0]]
    done = int(pick.random() * long)
    return Job(QUIET_S, draw_prompt(pick, prompt) + done, max(2, round(long) - done))
