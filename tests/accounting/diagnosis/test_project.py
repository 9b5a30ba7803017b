"""The same work served another way."""

from __future__ import annotations

from math import exp

import pytest

from accounting.diagnosis.project import Load, Prices, as_it_came, at_batch, served, usual_batch
from tests.accounting.diagnosis.examples import PRICES, TIMES, facts

LOAD = Load(60.0, 48_000.0, 0.0, 0.0, 48_000.0, 0.0)


def test_at_its_own_batch_work_costs_what_it_cost() -> None:
    one = facts(0)
    (load,) = as_it_came([one])
    again = at_batch(load, 8.0, Prices(PRICES), Prices(TIMES))
    assert again.energy_j == pytest.approx(one.learnt_uj / 1e6)
    assert again.steps == 6_000


def test_twice_the_batch_takes_half_the_steps() -> None:
    one, two = (at_batch(LOAD, batch, Prices(PRICES), Prices(TIMES)) for batch in (8.0, 16.0))
    assert one.energy_j - two.energy_j == pytest.approx(3_000 * PRICES[0])


def test_the_batch_is_that_of_littles_law() -> None:
    batch = usual_batch(LOAD, Prices(TIMES))
    step_s = TIMES[0] + batch * TIMES[4]
    together = 48_000 / 60 * step_s
    assert batch == pytest.approx(together / (1 - exp(-together)), rel=1e-4)


def test_a_lone_request_is_a_batch_of_one() -> None:
    assert usual_batch(Load(60.0, 10.0, 0.0, 0.0, 10.0, 0.0), Prices(TIMES)) == pytest.approx(1.0, abs=0.01)


def test_a_limit_holds_the_batch_down_and_the_work_takes_longer() -> None:
    free = served([LOAD], Prices(PRICES), Prices(TIMES))
    held = served([LOAD], Prices(PRICES), Prices(TIMES), 2.0)
    assert held.batch == 2.0 < free.batch
    assert held.busy_s > free.busy_s
    assert held.energy_j > free.energy_j


def test_work_is_moved_to_the_minutes_in_which_its_requests_came() -> None:
    first = facts(0, arrived=300, arriving_us=30_000_000)
    loads = as_it_came([first, facts(1, arrived=0), facts(2, arrived=100)])
    assert [round(load.tokens) for load in loads] == [108_000, 36_000]
    assert loads[0].seconds == pytest.approx(30.0, rel=0.02)


def test_what_is_not_busy_is_idle() -> None:
    way = at_batch(LOAD, 8.0, Prices(PRICES), Prices(TIMES))
    assert way.drawn_j(100.0, 50.0) == pytest.approx(way.energy_j + 50 * (100 - way.busy_s))
    assert way.drawn_j(1.0, 50.0) == way.energy_j
