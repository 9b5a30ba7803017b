"""A GPU below a power limit."""

from __future__ import annotations

import pytest

from simulator.catalog import offer
from simulator.power_limit import LimitedPhysics

FREE = offer("llama-3.1-8b", "h100", 1).physics
BUSY_W = 283.0


def limited(limit_w: float) -> LimitedPhysics:
    return LimitedPhysics(FREE, limit_w, BUSY_W)


def test_a_limit_that_is_not_reached_changes_nothing() -> None:
    assert limited(700.0).totals(8, 4000, ()) == pytest.approx(FREE.totals(8, 4000, ()))


def test_a_limit_a_little_below_saves_energy_and_takes_longer() -> None:
    free_s, free_j = FREE.totals(32, 16_000, ())
    time_s, energy_j = limited(0.95 * free_j / free_s).totals(32, 16_000, ())
    assert time_s > free_s
    assert energy_j < free_j
    assert energy_j / time_s == pytest.approx(0.95 * free_j / free_s)


def test_a_limit_far_below_wastes_energy() -> None:
    free_s, free_j = FREE.totals(32, 16_000, ())
    time_s, energy_j = limited(310.0).totals(32, 16_000, ())
    assert time_s > 3 * free_s
    assert energy_j > free_j


def test_a_run_of_steps_and_their_shares_are_as_the_steps() -> None:
    slow = limited(330.0)
    times, energies = slow.decode_run(4, 2000, 3)
    singly = [slow.totals(4, 2000 + 4 * n, ()) for n in range(3)]
    assert times.tolist() == pytest.approx([float(time_s) for time_s, _ in singly])
    assert energies.tolist() == pytest.approx([float(energy_j) for _, energy_j in singly])
    step = slow.step([500] * 4)
    assert sum(step.decode_j) == pytest.approx(step.energy_j) == pytest.approx(energies[0])


def test_nothing_runs_below_busy_power() -> None:
    with pytest.raises(ValueError, match="leaves nothing"):
        limited(BUSY_W)
