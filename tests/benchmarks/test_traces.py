"""The traces: their truth is the whole energy, steps cost what the simulator's do, no luck is in them."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from accounting.events import CounterReads, FirstToken, RequestFinished, RequestStarted, Tick
from benchmarks.traces.scenario import SCENARIOS, Scenario, named
from benchmarks.traces.step import StepPhysics, expert_shapley
from benchmarks.traces.trace import Trace, make_trace
from simulator.physics import PrefillChunk, step_cost

Floats = NDArray[np.float64]


def short(scenario: Scenario) -> Trace:
    return make_trace(replace(scenario, longer=1.0), 5.0)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_the_truth_of_all_requests_and_idling_is_the_whole_curve(scenario: Scenario) -> None:
    run = short(scenario).run
    whole = sum(outcome.energy_j for outcome in run.outcomes) + run.idle_j
    assert whole == pytest.approx(run.energy_j[-1], rel=1e-9)
    assert (np.diff(run.energy_j) > 0).all()
    assert (np.diff(run.time_s) >= 0).all()
    assert all(outcome.static_j > 0 for outcome in run.outcomes)


def test_the_static_part_of_all_requests_is_idle_power_over_the_busy_time() -> None:
    scenario = named("8b-half")
    run = short(scenario).run
    idle_w = scenario.gpus * scenario.gpu.idle_power_w
    static_j = sum(outcome.static_j for outcome in run.outcomes)
    assert static_j + run.idle_j == pytest.approx(idle_w * run.time_s[-1], rel=1e-9)


def test_a_clean_step_costs_what_the_simulators_does() -> None:
    for name in ("8b-half", "70b-full", "moe-half"):
        scenario = named(name)
        physics = StepPhysics(scenario, np.random.default_rng(0))
        contexts, chunks = [100, 2_000, 31], [PrefillChunk(700, 0), PrefillChunk(90, 512)]
        mine = physics.step(0.0, len(contexts), sum(contexts), chunks)
        theirs = step_cost(scenario.model, scenario.gpu, scenario.gpus, contexts, chunks)
        assert mine.energy_j == pytest.approx(theirs.energy_j, rel=1e-9)
        assert mine.time_s == pytest.approx(theirs.time_s, rel=1e-9)
        if not scenario.model.is_moe:  # there the simulator shares expert reads by tokens
            decode_j = [mine.decode_j + mine.kv_j * context for context in contexts]
            assert decode_j == pytest.approx(theirs.decode_j, rel=1e-9)
            assert mine.chunk_j == pytest.approx(theirs.prefill_j, rel=1e-9)


@pytest.mark.parametrize(
    ("decodes", "width", "chunks"), [(3, 1, [40]), (1, 1, [2_000, 3]), (2, 4, [7, 5]), (0, 1, [10, 20, 30])]
)
def test_the_split_of_expert_reads_is_the_shapley_value(decodes: int, width: int, chunks: list[int]) -> None:
    def cost(tokens: Floats) -> Floats:
        share: Floats = 1.0 - 0.9 ** (tokens**0.857)
        return share

    players = [width] * decodes + chunks
    orders = list(permutations(range(len(players))))
    parts = np.zeros(len(players))
    for order in orders:
        there = 0
        for player in order:
            both = cost(np.array([there, there + players[player]], np.float64))
            parts[player] += (both[1] - both[0]) / len(orders)
            there += players[player]
    each, of_chunks = expert_shapley(cost, decodes, width, chunks)
    assert [*[each] * decodes, *of_chunks] == pytest.approx(parts.tolist(), rel=1e-6)


def test_padding_and_noise_make_a_messy_step_dearer_but_lose_nothing() -> None:
    scenario = named("messy-8b-half")
    physics = StepPhysics(scenario, np.random.default_rng(0))
    clean = StepPhysics(named("8b-half"), np.random.default_rng(0)).step(0.0, 9, 9_000, [])
    steps = [physics.step(0.0, 9, 9_000, []) for _ in range(300)]
    for step in steps:
        assert 9 * step.decode_j + 9_000 * step.kv_j == pytest.approx(step.energy_j, rel=1e-9)
    assert np.mean([step.energy_j for step in steps]) > clean.energy_j


def test_the_same_scenario_gives_the_same_trace_and_another_seed_another() -> None:
    scenario = named("messy-8b-half")
    one, two = (msgspec.json.encode(short(scenario).events) for _ in range(2))
    assert one == two
    assert msgspec.json.encode(short(replace(scenario, seed=1)).events) != one


@pytest.mark.parametrize("name", ["8b-half", "8b-n2", "8b-draft", "8b-pieces-times", "8b-bypass"])
def test_events_tell_each_request_that_passes_the_proxy_once_and_in_order(name: str) -> None:
    trace = short(named(name))
    seen: dict[int, list[str]] = {}
    tokens: dict[int, int] = {}
    now = 0
    for event in trace.events:
        match event:
            case RequestStarted() | FirstToken() | RequestFinished():
                seen.setdefault(event.handle, []).append(type(event).__name__)
                assert event.t_us >= now - 50_000
            case Tick():
                assert event.t_us >= now
                now = event.t_us
                for handle, count in zip(event.handles, event.tokens, strict=True):
                    assert count > 0
                    assert seen[handle][-1] == "FirstToken"
                    tokens[handle] = tokens.get(handle, 0) + count
            case _:
                pass
    visible = [request for request in trace.requests if request.seen]
    assert len(seen) == len(visible)
    assert len(visible) < len(trace.requests) or name != "8b-bypass"
    streamed = [request for request in visible if request.streamed]
    assert sorted(map(len, seen.values())) == sorted(3 if request.streamed else 2 for request in visible)
    counted, made = sum(tokens.values()), sum(sum(request.outputs) for request in streamed)
    assert counted < made / 2 if name == "8b-draft" else counted == made


def test_the_counter_is_a_staircase_that_ends_near_the_truth() -> None:
    trace = short(named("70b-full"))
    reads: dict[str, list[int]] = {}
    for event in trace.events:
        if isinstance(event, CounterReads):
            reads.setdefault(event.gpu, []).extend(event.energy_mj)
    assert len(reads) == trace.scenario.gpus
    for values in reads.values():
        steps = np.diff(np.array(values))
        assert (steps >= 0).all()
        assert 0.2 < float((steps > 0).mean()) < 0.4  # 30 ms of 100 ms
    shown_j = sum(values[-1] - values[0] for values in reads.values()) / 1_000
    assert shown_j == pytest.approx(trace.run.energy_j[-1], rel=0.01)
