"""How much fits: the server that is not there, and the search for the most."""

from __future__ import annotations

import pytest

from accounting.diagnosis.capacity import Question, Unanswerable, capacity, kv_tokens
from accounting.diagnosis.project import Prices
from accounting.diagnosis.serving import Asked, Engine, percentile, run
from accounting.diagnosis.window import Backend
from tests.accounting.diagnosis.examples import PRICES, TIMES, empty, facts

MIX = [Asked(100, 0, 50), Asked(300, 100, 100), Asked(50, 0, 1)]
ENGINE = Engine(Prices(PRICES), Prices(TIMES), 100.0, 256)
BACKEND = Backend("one", [facts(n) for n in range(3)])


def test_a_lone_request_takes_what_its_steps_take() -> None:
    out = run(ENGINE, [Asked(100, 0, 51)], 0.01, 50)
    first_s, step_s = TIMES[0] + 100 * TIMES[2], TIMES[0] + TIMES[4]
    assert percentile(out.ttft_s, 50) == pytest.approx(first_s)
    assert percentile(out.itl_s, 50) == pytest.approx(step_s)
    busy_j = PRICES[0] + 100 * PRICES[2] + 50 * (PRICES[0] + PRICES[4])
    assert out.energy_j == pytest.approx(50 * busy_j + 100.0 * (out.seconds - out.busy_s), rel=0.05)
    assert out.batch == pytest.approx(1.0, abs=0.01)


def test_cached_tokens_are_not_computed() -> None:
    whole, cached = (run(ENGINE, [Asked(1000, c, 10)], 0.01, 20) for c in (0, 900))
    assert percentile(whole.ttft_s, 50) == pytest.approx(TIMES[0] + 1000 * TIMES[2])
    assert percentile(cached.ttft_s, 50) == pytest.approx(TIMES[0] + 100 * TIMES[2])


def test_more_load_means_larger_batches_and_longer_waits() -> None:
    little, much = run(ENGINE, MIX, 2.0, 300), run(ENGINE, MIX, 60.0, 300)
    assert much.batch > 2 * little.batch
    assert (percentile(much.itl_s, 95) or 0) > (percentile(little.itl_s, 95) or 0)
    assert much.tokens / much.energy_j > little.tokens / little.energy_j


def test_seats_and_kv_memory_hold_the_batch() -> None:
    assert run(Engine(Prices(PRICES), Prices(TIMES), 100.0, 4), MIX, 60.0, 300).most_running <= 4
    small = Engine(Prices(PRICES), Prices(TIMES), 100.0, 256, kv_tokens=1_000.0)
    assert run(small, MIX, 60.0, 300).most_running <= 1_000 // 51


def test_a_queue_without_end_is_an_overload() -> None:
    assert run(Engine(Prices(PRICES), Prices(TIMES), 100.0, 1), MIX, 500.0, 4_000).overloaded


def test_the_most_is_within_its_limits_and_says_what_forbids_more() -> None:
    found = capacity([BACKEND], MIX, Question(itl_ms=12.0))
    assert found.most is not None
    assert found.most.itl_ms is not None
    assert found.most.held_by == "itl"
    assert found.most.itl_ms <= 12.0
    assert found.most.per_s > found.present_per_s == pytest.approx(200 / 60)
    assert found.most.max_num_seqs >= found.most.batch


def test_a_power_budget_chooses_the_replicas() -> None:
    one = capacity([BACKEND], MIX, Question(itl_ms=12.0)).most
    assert one is not None
    found = capacity([BACKEND], MIX, Question(itl_ms=12.0, power_w=2.5 * one.power_w))
    assert found.most is not None
    assert found.most.replicas == 2
    assert found.most.power_w <= 2.5 * one.power_w
    assert found.most.per_s > 1.8 * one.per_s
    assert found.by_replicas[-1].per_s < found.most.per_s


def test_a_forecast_that_does_not_fit_has_no_way() -> None:
    question = Question(itl_ms=12.0, per_s=10_000.0, growth=0.1)
    found = capacity([BACKEND], MIX, question)
    assert found.forecast is None
    assert found.months == 0.0
    small = capacity([BACKEND], MIX, Question(itl_ms=12.0, per_s=2.0, growth=0.1))
    assert small.forecast is not None
    assert small.months is not None
    assert small.months > 1


def test_longer_answers_fit_less_often() -> None:
    found = capacity([BACKEND], MIX, Question(itl_ms=12.0, answer_factor=2.0))
    assert found.most is not None
    assert found.changed is not None
    assert found.changed.per_s < 0.75 * found.most.per_s


def test_limits_that_nothing_keeps_leave_nothing() -> None:
    found = capacity([BACKEND], MIX, Question(itl_ms=1.0))
    assert found.most is None
    assert found.by_replicas == []


def test_what_was_seen_is_told_by_load() -> None:
    group = [Backend("one", [facts(0, batch=2.0), facts(1, batch=2.1), facts(2, batch=16.0, steps=5_000)])]
    seen = capacity(group, MIX, Question(itl_ms=12.0)).seen
    assert [one.minutes for one in seen] == [2, 1]
    assert seen[0].tokens_per_joule < seen[1].tokens_per_joule


def test_the_room_of_the_kv_cache_follows_from_what_ran_in_it() -> None:
    one = facts(0, batch=8.0, kv_used=0.1)
    one.work[5] = one.work[4] * 500  # tokens of context for each token made
    assert kv_tokens(Backend("one", [one])) == pytest.approx(8 * 500 / 0.1)
    assert kv_tokens(BACKEND) is not None
    assert kv_tokens(Backend("one", [facts(0, kv_used=None)])) is None


def test_without_work_there_is_no_answer() -> None:
    for group, mix in (([Backend("one", [empty(0)])], MIX), ([BACKEND], [])):
        with pytest.raises(Unanswerable):
            capacity(group, mix, Question())
