"""Intervals cover what they should, and the same data give the same."""

from __future__ import annotations

import numpy as np
import pytest

from joulegate.sweep import spread
from joulegate.sweep.spread import Interval


def covered(tries: int, correlated: bool) -> float:
    """How often the interval of a ratio holds the true one, 0.5."""
    pick = np.random.default_rng(3)
    hits = 0
    for _ in range(tries):
        tokens = pick.uniform(80, 120, 120)
        noise = pick.normal(0, 5, 120)
        if correlated:
            noise = np.convolve(noise, np.ones(4) / 2, "same")
        found = spread.interval(spread.ratio_draws(0.5 * tokens + noise, tokens))
        assert found is not None
        hits += found.low <= 0.5 <= found.high
    return hits / tries


@pytest.mark.parametrize("correlated", [False, True])
def test_intervals_of_a_ratio_cover_it_as_often_as_they_say(correlated: bool) -> None:
    assert 0.86 <= covered(150, correlated) <= 0.99


def test_intervals_of_requests_cover_mean_and_median() -> None:
    pick = np.random.default_rng(4)
    for statistic, true in ((spread.mean, np.exp(0.5)), (spread.quantile(0.5), 1.0)):
        hits = 0
        for _ in range(100):
            found = spread.interval(spread.draws_of(pick.lognormal(0, 1, 80), statistic))
            assert found is not None
            hits += found.low <= true <= found.high
        assert hits >= 85


def test_the_same_data_give_the_same_interval_and_few_give_none() -> None:
    values = np.arange(30.0)
    first = spread.interval(spread.draws_of(values, spread.mean))
    assert first == spread.interval(spread.draws_of(values, spread.mean))
    assert isinstance(first, Interval)
    assert spread.draws_of(values[:4], spread.mean) is None
    assert spread.ratio_draws(values[:4], values[:4]) is None
    assert spread.interval(None) is None


def test_blocks_grow_with_the_data_but_never_to_all_of_it() -> None:
    assert [spread.block_length(count) for count in (5, 9, 120, 1000)] == [1, 3, 10, 20]
