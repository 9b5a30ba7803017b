"""Warm-up is found where it is, and a level that drifts is told."""

from __future__ import annotations

import numpy as np
import pytest

from joulegate.sweep import steady


@pytest.mark.parametrize("warm", [0, 5, 12])
def test_a_ramp_is_left_out_and_little_more(warm: int) -> None:
    pick = np.random.default_rng(warm)
    series = 100 + pick.normal(0, 2, 60)
    series[:warm] *= np.linspace(0.2, 0.9, warm)
    assert warm <= steady.truncation(series) <= warm + 8


def test_a_long_series_is_looked_at_in_groups() -> None:
    pick = np.random.default_rng(1)
    series = np.concatenate([np.full(23, 10.0), 100 + pick.normal(0, 2, 300)])
    left = steady.truncation(series)
    assert left % steady.GROUP == 0
    assert 23 <= left <= 40


def test_never_more_than_half_is_left_out_and_few_are_taken_as_they_are() -> None:
    assert steady.truncation(np.arange(40.0)) <= 20
    assert steady.truncation(np.array([0.0, 100.0, 100.0])) == 0


def test_it_is_warm_when_as_many_have_their_first_token() -> None:
    assert steady.warm_at([3.0, 1.0, 2.0, 9.0], 3) == 3.0
    assert steady.warm_at([1.0], 2) is None


def test_drift_compares_the_halves() -> None:
    tokens = np.full(20, 10.0)
    assert steady.drift(5 * tokens, tokens) == pytest.approx(0)
    rising = np.concatenate([np.full(10, 50.0), np.full(10, 60.0)])
    assert steady.drift(rising, tokens) == pytest.approx(0.2)
    assert steady.drift(tokens[:4], tokens[:4]) is None
    assert steady.drift(tokens, np.zeros(20)) is None
