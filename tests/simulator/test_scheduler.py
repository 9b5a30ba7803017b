"""Continuous batching: what must hold for every order of arrivals, aborts and steps."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.cards import BLOCK_TOKENS
from simulator.kv_cache import KvCache, prefix_keys
from simulator.scheduler import Scheduler, Sequence, State


def sequence(length: int, limit: int, start: int = 0) -> Sequence:
    return Sequence(length, limit, list(range(start, start + length)))


def run_one(scheduler: Scheduler, token: int = 7) -> list[Sequence]:
    return scheduler.complete(scheduler.schedule(), lambda _: token)


def drain(scheduler: Scheduler) -> int:
    steps = 0
    while scheduler.busy:
        run_one(scheduler)
        steps += 1
        assert steps < 10_000
    return steps


arrivals = st.tuples(st.just("add"), st.integers(1, 90), st.integers(0, 40), st.sampled_from([0, 0, 1000]))
aborts = st.tuples(st.just("abort"), st.integers(0, 30))
turns = st.tuples(st.just("step"))
scripts = st.lists(st.one_of(arrivals, aborts, turns, turns), max_size=60)


@settings(max_examples=150, deadline=None)
@given(scripts, st.integers(1, 5), st.integers(1, 64), st.integers(9, 24))
def test_any_script_keeps_the_limits_and_ends_every_sequence_once(
    script: list[tuple[object, ...]], max_num_seqs: int, budget: int, blocks: int
) -> None:
    scheduler = Scheduler(kv_blocks=blocks, max_num_seqs=max_num_seqs, max_num_batched_tokens=budget)
    added: list[Sequence] = []
    ended: Counter[Sequence] = Counter()
    aborted: set[Sequence] = set()

    def one_step(abort_within: Sequence | None = None) -> None:
        before = {s: s.output_tokens for s in added}
        step = scheduler.schedule()
        assert step.tokens > 0
        assert step.tokens <= budget
        assert len(scheduler.running) <= max_num_seqs
        assert 0 <= scheduler.cache.held <= blocks
        planned = Counter([*step.decode, *(p.sequence for p in step.prefill)])
        assert not planned or max(planned.values()) == 1
        assert not set(planned) & set(step.preempted)
        if abort_within is not None:
            scheduler.abort(abort_within)
        done = scheduler.complete(step, lambda s: 100_000 + s.output_tokens)
        for s in done:
            assert s in planned
            assert s.output_tokens == before[s] + (1 if s.limit else 0)
            if s.state is State.FINISHED:
                ended[s] += 1
        assert scheduler.cache.held == len({key for s in scheduler.running for key in s.keys}) + sum(
            s.opened for s in scheduler.running
        )

    for name, *numbers in script:
        if name == "add":
            length, limit, start = (int(str(n)) for n in numbers)
            added.append(sequence(length, limit, start))
            scheduler.add(added[-1])
        elif name == "abort" and added:
            victim = added[int(str(numbers[0])) % len(added)]
            if victim.state in (State.WAITING, State.RUNNING):
                aborted.add(victim)
                if victim.state is State.RUNNING:
                    one_step(abort_within=victim)
                else:
                    scheduler.abort(victim)
                assert victim.blocks == 0
        elif scheduler.busy:
            one_step()
    steps = 0
    while scheduler.busy:
        one_step()
        steps += 1
        assert steps < 5000
    finished = set(added) - aborted
    assert set(ended) == finished
    assert all(count == 1 for count in ended.values())
    assert all(s.output_tokens == s.limit for s in finished)
    assert scheduler.cache.held == 0


def test_a_long_prompt_is_prefilled_in_chunks_beside_the_decoding_ones() -> None:
    scheduler = Scheduler(kv_blocks=100, max_num_batched_tokens=32)
    short, long = sequence(8, 50), sequence(100, 5, start=500)
    scheduler.add(short)
    run_one(scheduler)
    scheduler.add(long)
    chunks = []
    while long.output_tokens == 0:
        step = scheduler.schedule()
        assert step.decode == [short]
        chunks.append(step.prefill[0].chunk.tokens)
        scheduler.complete(step, lambda _: 7)
    assert chunks == [31, 31, 31, 7]


def test_a_repeated_prompt_is_taken_from_the_prefix_cache_except_for_its_end() -> None:
    scheduler = Scheduler(kv_blocks=100)
    for expected in (0, 96):  # 6 of 7 blocks: the last token must be computed
        one = sequence(112, 1)
        scheduler.add(one)
        drain(scheduler)
        assert one.cached_tokens == expected


def test_a_conversation_finds_its_own_answer_in_the_prefix_cache() -> None:
    scheduler = Scheduler(kv_blocks=100)
    first = sequence(20, 30)
    scheduler.add(first)
    drain(scheduler)
    second = Sequence(60, 1, [*first.tokens, *range(900, 910)])
    scheduler.add(second)
    drain(scheduler)
    assert second.cached_tokens == 48


def test_the_last_admitted_is_preempted_and_computed_again() -> None:
    scheduler = Scheduler(kv_blocks=6)
    first, second = sequence(40, 40), sequence(40, 20, start=500)
    scheduler.add(first)
    scheduler.add(second)
    drain(scheduler)
    assert (first.preemptions, second.preemptions) == (0, 1)
    assert scheduler.preemptions == 1
    assert (first.output_tokens, second.output_tokens) == (40, 20)


def test_aborting_frees_blocks_at_once_for_those_who_wait() -> None:
    scheduler = Scheduler(kv_blocks=4)
    first, second = sequence(60, 4), sequence(60, 4, start=500)
    scheduler.add(first)
    scheduler.add(second)
    run_one(scheduler)
    assert second.state is State.WAITING
    scheduler.abort(first)
    assert scheduler.cache.held == 0
    run_one(scheduler)
    assert second.output_tokens == 1


def test_what_could_outgrow_the_cache_is_refused() -> None:
    scheduler = Scheduler(kv_blocks=4)
    with pytest.raises(ValueError, match="outgrow"):
        scheduler.add(sequence(60, 5))


def test_prefill_only_work_ends_without_a_token() -> None:
    scheduler = Scheduler(kv_blocks=10)
    one = sequence(40, 0)
    scheduler.add(one)
    assert run_one(scheduler) == [one]
    assert one.output_tokens == 0
    assert one.state is State.FINISHED


def test_the_cache_forgets_the_block_unused_longest() -> None:
    cache = KvCache(3)
    old, new = prefix_keys(list(range(BLOCK_TOKENS))), prefix_keys(list(range(100, 100 + BLOCK_TOKENS)))
    for keys in (old, new):
        cache.open(1)
        cache.fill(keys[0])
        cache.release(keys, 0)
    cache.open(2)
    assert (cache.match(old), cache.match(new)) == (0, 1)
    with pytest.raises(ValueError, match="wanted"):
        cache.open(2)


def test_a_key_depends_on_everything_before_it() -> None:
    a = prefix_keys([1] * 16 + [5] * 16)
    b = prefix_keys([2] * 16 + [5] * 16)
    assert len(a) == len(b) == 2
    assert a[1] != b[1]
