"""Virtual time: the same as step by step, and nothing lost."""

from __future__ import annotations

import random

import numpy as np
import pytest

from simulator.cards import BLOCK_TOKENS, H100, LLAMA_8B
from simulator.kv_cache import blocks_for
from simulator.physics import CardPhysics
from simulator.scheduler import Scheduler
from simulator.virtual import Course, Job, VirtualEngine

IDLE_W = 110.0


class Unhurried(Scheduler):
    """Takes every step singly."""

    def quiet_steps(self) -> int:
        return 0


def jobs(seed: int, count: int = 60, apart_s: float = 0.05) -> list[Job]:
    pick = random.Random(seed)
    lengths = [(pick.randint(1, 700), pick.randint(1, 300)) for _ in range(count)]
    return [Job(apart_s * pick.randint(0, count), prompt, answer) for prompt, answer in lengths]


def serve(kind: type[Scheduler], seed: int, blocks: int, tail_s: float = 0.0) -> Course:
    scheduler = kind(kv_blocks=blocks, max_num_seqs=12, max_num_batched_tokens=512)
    return VirtualEngine(CardPhysics(LLAMA_8B, H100, 1), scheduler, IDLE_W).run(jobs(seed), tail_s)


@pytest.mark.parametrize("blocks", [10_000, 150, blocks_for(1_000)])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_skipping_quiet_steps_changes_nothing(seed: int, blocks: int) -> None:
    skipped, single = serve(Scheduler, seed, blocks), serve(Unhurried, seed, blocks)
    assert [job.spans for job in skipped.jobs] == [job.spans for job in single.jobs]
    assert [job.preemptions for job in skipped.jobs] == [job.preemptions for job in single.jobs]
    assert skipped.step_end_s == pytest.approx(single.step_end_s, rel=1e-9)
    assert skipped.energy_at(single.step_end_s) == pytest.approx(
        single.energy_at(single.step_end_s), rel=1e-9
    )


def test_a_tight_cache_preempts_and_still_serves_everyone() -> None:
    course = serve(Scheduler, 1, blocks_for(1_000))
    assert sum(job.preemptions for job in course.jobs) > 0
    assert any(len(job.spans) > 1 for job in course.jobs)
    for job in course.jobs:
        assert job.made == job.answer_tokens


def test_every_token_is_made_in_one_step() -> None:
    course = serve(Scheduler, 2, 10_000)
    made = np.zeros(len(course.step_end_s))
    for job in course.jobs:
        for first, last in job.spans:
            made[first : last + 1] += 1
    assert made.tolist() == course.step_tokens.tolist()


def test_between_requests_the_gpu_idles() -> None:
    physics = CardPhysics(LLAMA_8B, H100, 1)
    engine = VirtualEngine(physics, Scheduler(kv_blocks=100), IDLE_W)
    course = engine.run([Job(5.0, 10, 3), Job(50.0, 10, 3)], tail_s=2.0)
    assert course.energy_at(np.array([5.0]))[0] == pytest.approx(5 * IDLE_W)
    busy_s = sum(course.step_end_s[job.last_step] - job.arrives_s for job in course.jobs)
    assert course.idle_j == pytest.approx(IDLE_W * (course.time_s[-1] - busy_s))


def test_who_arrives_in_a_quiet_stretch_joins_at_the_next_step() -> None:
    engine = VirtualEngine(CardPhysics(LLAMA_8B, H100, 1), Scheduler(kv_blocks=1_000), IDLE_W)
    long, late = Job(0.0, 10, 1_000), Job(1.0, 10, 5)
    course = engine.run([long, late])
    begins_s = course.step_end_s[late.first_step - 1]
    assert 1.0 <= begins_s < 1.05


def test_what_could_outgrow_the_cache_is_refused() -> None:
    engine = VirtualEngine(CardPhysics(LLAMA_8B, H100, 1), Scheduler(kv_blocks=2), IDLE_W)
    with pytest.raises(ValueError, match="outgrow"):
        engine.run([Job(0.0, 10, 2 * BLOCK_TOKENS)])


def test_when_enough_have_ended_the_rest_is_cut_off() -> None:
    scheduler = Scheduler(kv_blocks=150, max_num_seqs=12)
    engine = VirtualEngine(CardPhysics(LLAMA_8B, H100, 1), scheduler, IDLE_W)
    course = engine.run(jobs(1), enough=20)
    ended = [job for job in course.jobs if not job.cut]
    assert 20 <= len(ended) < 20 + 12
    assert all(job.made == job.answer_tokens for job in ended)
    assert all(job.made < job.answer_tokens for job in course.jobs if job.cut)
    assert sum(job.made for job in course.jobs) == course.step_tokens.sum()
    assert not scheduler.busy
    assert scheduler.cache.held == 0


def test_a_filled_batch_has_its_first_tokens_after_one_step() -> None:
    scheduler = Scheduler(kv_blocks=10_000, max_num_seqs=12, max_num_batched_tokens=64)
    many = [Job(0.0, 500, 50) for _ in range(15)]
    course = VirtualEngine(CardPhysics(LLAMA_8B, H100, 1), scheduler, IDLE_W).run(many, filled=True)
    assert [job.first_step for job in course.jobs[:12]] == [0] * 12
    assert [job.cached_tokens for job in course.jobs] == [499] * 12 + [0] * 3
    decode_s, _ = CardPhysics(LLAMA_8B, H100, 1).totals(12, 12 * 500, ())
    assert course.step_end_s[0] == pytest.approx(decode_s)
    assert scheduler.max_num_batched_tokens == 64
    assert course.jobs[12].first_step > 49
