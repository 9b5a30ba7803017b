from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from accounting.ledger.work import INTERVAL_US, MAX_SPREAD_US, number, rescale, spread


@settings(deadline=None)
@given(
    st.integers(0, 10**15),
    st.integers(-(10**16), 10**16),
    st.integers(-(10**7), 10**8),
)
def test_spread_lays_down_exactly_what_it_was_given(amount: int, t0_us: int, length_us: int) -> None:
    bins: dict[int, int] = {}
    t1_us = t0_us + length_us
    spread(bins, amount, t0_us, t1_us)
    assert sum(bins.values()) == amount
    for k, part in bins.items():
        assert part >= 0
        assert number(min(t0_us, t1_us)) <= k <= number(t1_us)


def test_spread_is_even_in_time() -> None:
    bins: dict[int, int] = {}
    spread(bins, 1000, 250_000, 1_250_000)
    assert bins == {0: 250, 1: 500, 2: 250}


def test_spread_adds_to_what_is_there() -> None:
    bins = {0: 7}
    spread(bins, 10, 0, 400_000)
    assert bins == {0: 17}


def test_spread_into_a_point_in_time_is_one_bin() -> None:
    bins: dict[int, int] = {}
    spread(bins, 10, INTERVAL_US, INTERVAL_US)
    spread(bins, 5, 2 * INTERVAL_US + 1, INTERVAL_US)
    assert bins == {1: 15}


def test_spread_over_centuries_keeps_to_the_latest_hour_and_loses_nothing() -> None:
    bins: dict[int, int] = {}
    spread(bins, 10**9, 0, 10**18)
    assert sum(bins.values()) == 10**9
    assert min(bins) >= number(10**18 - MAX_SPREAD_US)


def test_rescale_corrects_only_what_is_not_settled() -> None:
    bins = {1: 1000, 2: 1000, 3: 500}
    rescale(bins, 2, was=100, now=120)
    assert bins == {1: 1000, 2: 1200, 3: 600}


def test_rescale_to_nothing_takes_all_open_work_away() -> None:
    bins = {1: 1000, 2: 1000}
    rescale(bins, 2, was=10, now=0)
    assert bins == {1: 1000, 2: 0}


def test_rescale_without_knowledge_of_what_was_changes_nothing() -> None:
    bins = {1: 1000}
    rescale(bins, 0, was=0, now=5)
    assert bins == {1: 1000}


@settings(deadline=None)
@given(
    st.dictionaries(st.integers(0, 9), st.integers(0, 10**9)), st.integers(1, 10**6), st.integers(0, 10**6)
)
def test_rescale_is_within_one_part_of_the_exact_figure(bins: dict[int, int], was: int, now: int) -> None:
    before = dict(bins)
    rescale(bins, 5, was, now)
    for k, part in bins.items():
        assert part == (before[k] if k < 5 else before[k] * now // was)
