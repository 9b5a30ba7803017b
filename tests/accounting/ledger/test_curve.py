"""The staircase of counter reads becomes a curve; what the meter did not see is not made up."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accounting.ledger.curve import COUNTER_PERIOD_US, MAX_GAP_US, Curve, Span
from tests.accounting.ledger.story import T0_US

STEP_US = 100_000


def read_at(curve: Curve, t_us: int, energy_mj: int, settled_us: int = 0) -> None:
    """One read that took no time."""
    curve.read(t_us, t_us, energy_mj, settled_us)


def steady(watts: int, n: int, t0_us: int = T0_US, mj: int = 0) -> Curve:
    """A curve of `n` edges at `watts`, exactly every STEP_US from t0_us on."""
    curve = Curve()
    add_steady(curve, watts, n, t0_us, mj)
    return curve


def add_steady(curve: Curve, watts: int, n: int, t0_us: int, mj: int, settled_us: int = 0) -> int:
    """`n` updates from t0_us on, read just before and after; returns the counter at the end."""
    for i in range(n):
        read_at(curve, t0_us + i * STEP_US - 1, mj, settled_us)
        mj += watts * STEP_US // 1000
        read_at(curve, t0_us + i * STEP_US + 1, mj, settled_us)
    return mj


def test_before_any_read_nothing_is_known() -> None:
    assert Curve().span(0, 500_000) == Span(0, 500_000, None, 0, 0, 0)
    assert Curve().known_until_us is None


def test_the_first_read_and_the_first_change_give_no_energy() -> None:
    curve = Curve()
    read_at(curve, 1_000_000, 5_000)
    assert curve.edges == []
    read_at(curve, 1_020_000, 5_100)
    assert [(e.t_us, e.energy_uj, e.covered_us) for e in curve.edges] == [(1_010_000, 0, 0)]


def test_an_edge_lies_between_the_last_old_and_the_first_new_value() -> None:
    curve = steady(100, 1)
    last = T0_US + 1
    for after, mj in ((30_000, 10_000), (60_000, 10_000), (99_000, 20_000)):
        read_at(curve, last + after, mj)
    assert curve.edges[-1].t_us == last + 99_000 - 39_000 // 2
    assert curve.edges[-1].half_width_us == 39_000 // 2


def test_the_time_a_read_took_widens_its_edge() -> None:
    curve = Curve()
    curve.read(1_000, 2_000, 1, 0)
    curve.read(50_000, 58_000, 2, 0)
    assert curve.edges[0].half_width_us == (58_000 - 1_000) // 2
    assert curve.edges[0].t_us == 58_000 - (58_000 - 1_000) // 2


def test_reads_far_apart_put_the_edge_within_one_period_of_the_new_value() -> None:
    curve = Curve()
    read_at(curve, 0, 1)
    read_at(curve, 1_000_000, 2)
    assert curve.edges[0].t_us == 1_000_000 - COUNTER_PERIOD_US // 2
    assert curve.edges[0].half_width_us == COUNTER_PERIOD_US // 2


def test_the_lag_of_the_counter_moves_its_edges_back() -> None:
    late = Curve(lag_us=30_000)
    read_at(late, 100_000, 1)
    read_at(late, 100_002, 2)
    assert late.edges[0].t_us == 100_001 - 30_000


def test_repeated_values_only_narrow_the_next_edge() -> None:
    curve = steady(100, 3)
    edges = len(curve.edges)
    for i in range(5):
        read_at(curve, T0_US + 2 * STEP_US + 10_000 + i * 1000, 30_000)
    assert len(curve.edges) == edges
    assert curve.last_lo_us == T0_US + 2 * STEP_US + 14_000


def test_a_steady_gpu_gives_power_times_time() -> None:
    curve = steady(300, 21)
    span = curve.span(T0_US, T0_US + 2_000_000)
    assert span == Span(T0_US, T0_US + 2_000_000, 600_000_000, 0, 2_000_000, 1)
    assert curve.span(T0_US + 250_000, T0_US + 750_000).measured_uj == 150_000_000
    assert curve.recent_power_uw() == 300_000_000


def test_reads_out_of_order_change_nothing() -> None:
    curve, same = steady(100, 10), steady(100, 10)
    read_at(curve, T0_US, 999_999)
    read_at(curve, T0_US + 200_000, 0)
    assert curve == same


def test_a_counter_that_goes_back_books_nothing_for_what_is_not_known() -> None:
    curve = steady(100, 11)  # until second 1.0
    drop = T0_US + 1_050_000
    read_at(curve, drop, 3)
    assert curve.edges[-1].t_us < drop
    add_steady(curve, 100, 10, T0_US + 1_100_000, 3)
    whole = curve.span(T0_US, T0_US + 2_000_000)
    assert whole.covered_us == 1_900_000
    assert whole.measured_uj == 190_000_000
    assert whole.unmeasured_uj == 0
    hole = curve.span(T0_US + 1_000_000, T0_US + 1_100_000)
    assert (hole.measured_uj, hole.covered_us) == (None, 0)


def test_edges_further_apart_than_the_gap_allowed_are_unmeasured_energy() -> None:
    curve = steady(100, 11)
    t_us = T0_US + 1_000_000 + MAX_GAP_US + STEP_US
    read_at(curve, t_us - 1, 110_000)
    read_at(curve, t_us + 1, 1_110_000)
    span = curve.span(T0_US + 1_000_000, t_us)
    assert (span.measured_uj, span.unmeasured_uj, span.covered_us) == (1_000_000_000, 1_000_000_000, 0)


def test_edges_just_within_the_gap_allowed_are_measured() -> None:
    curve = steady(100, 11)
    t_us = T0_US + 1_000_000 + MAX_GAP_US
    read_at(curve, t_us - 1, 110_000)
    read_at(curve, t_us + 1, 1_110_000)
    span = curve.span(T0_US + 1_000_000, t_us)
    assert (span.measured_uj, span.unmeasured_uj, span.covered_us) == (1_000_000_000, 0, MAX_GAP_US)


def test_a_meter_back_after_the_books_went_on_puts_its_energy_behind_them() -> None:
    curve = steady(100, 11)
    settled = T0_US + 4_000_000
    t_us = T0_US + 4_200_000
    read_at(curve, t_us - 1, 110_000, settled)
    read_at(curve, t_us + 1, 430_000, settled)
    booked_late = curve.span(settled, T0_US + 4_500_000)
    assert curve.span(T0_US + 1_000_000, settled).measured_uj is None
    assert booked_late.measured_uj == booked_late.unmeasured_uj == 320_000_000
    assert booked_late.covered_us == 0


def test_a_broken_epoch_books_nothing_across_the_break() -> None:
    curve = steady(100, 11)
    curve.break_epoch()
    add_steady(curve, 100, 10, T0_US + 1_500_000, 77_000_000)
    whole = curve.span(T0_US, T0_US + 2_400_000)
    assert (whole.measured_uj, whole.covered_us) == (190_000_000, 1_900_000)


def test_a_counter_that_jumps_further_than_a_gpu_can_draw_books_nothing_for_the_jump() -> None:
    curve = steady(100, 11)
    add_steady(curve, 100, 5, T0_US + 1_100_000, 2**62)
    back = add_steady(curve, 100, 11, T0_US + 2_000_000, 160_000)
    assert back == 160_000 + 110_000
    whole = curve.span(T0_US, T0_US + 3_000_000)
    assert whole.measured_uj == (10 + 4 + 10) * 10_000_000
    assert whole.covered_us == 2_400_000


def test_recent_power_leaves_out_energy_that_was_not_seen() -> None:
    curve = steady(100, 11)
    away = T0_US + 61_000_000
    add_steady(curve, 100, 3, away, 6_110_000)
    over_all = away + 200_000 - T0_US
    power_uw = curve.recent_power_uw(over_all)
    assert power_uw is not None
    # The first read after the gap shows a change whose time is known to half a period only.
    assert 100_000_000 <= power_uw <= 105_000_000
    assert steady(100, 1).recent_power_uw() is None


def test_edges_that_are_settled_are_forgotten_without_changing_what_follows() -> None:
    curve, whole = steady(100, 50), steady(100, 50)
    curve.forget_before(T0_US + 2_550_000)
    assert len(curve.edges) < 30
    for t0 in range(T0_US + 2_550_000, T0_US + 4_000_000, 77_000):
        assert curve.span(t0, t0 + 500_000) == whole.span(t0, t0 + 500_000)


def test_the_curve_is_blind_until_its_next_known_stretch() -> None:
    curve = steady(100, 11)
    add_steady(curve, 100, 3, T0_US + 20_000_000, 2_000_000)
    assert curve.blind_until(T0_US - 5_000_000) == T0_US
    assert curve.blind_until(T0_US + 500_000) == T0_US + 500_000
    back = T0_US + 20_000_000 - 1 - COUNTER_PERIOD_US // 2
    assert curve.blind_until(T0_US + 1_000_000) == pytest.approx(back, abs=COUNTER_PERIOD_US // 2)
    assert curve.blind_until(T0_US + 9_999_999) == pytest.approx(back, abs=COUNTER_PERIOD_US // 2)
    assert curve.blind_until(T0_US + 20_200_000) is None


reads = st.lists(
    st.tuples(st.integers(-50_000, 3_000_000), st.integers(0, 20_000), st.integers(-3_000, 90_000)),
    max_size=40,
)


@settings(deadline=None, max_examples=200)
@given(reads, st.lists(st.integers(-1_000_000, 30_000_000), min_size=2, max_size=12, unique=True))
def test_spans_telescope_over_any_cut_of_time(steps: list[tuple[int, int, int]], cuts: list[int]) -> None:
    curve, t_us, mj = Curve(), 0, 1_000_000
    for later, took, more in steps:
        t_us, mj = t_us + later, max(mj + more, 0)
        curve.read(t_us, t_us + took, mj, 0)
    times = [e.t_us for e in curve.edges]
    assert times == sorted(set(times))
    cuts.sort()
    whole = curve.span(cuts[0], cuts[-1])
    parts = [curve.span(a, b) for a, b in itertools.pairwise(cuts)]
    assert sum(p.measured_uj or 0 for p in parts) == (whole.measured_uj or 0)
    assert sum(p.unmeasured_uj for p in parts) == whole.unmeasured_uj
    assert sum(p.covered_us for p in parts) == whole.covered_us
    for part in parts:
        assert 0 <= part.unmeasured_uj <= (part.measured_uj or 0)
        assert 0 <= part.covered_us <= part.t1_us - part.t0_us


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(st.integers(1, 400_000), st.integers(0, 30_000)), min_size=3, max_size=40))
def test_all_that_an_honest_counter_shows_after_its_first_edge_is_on_the_curve(
    steps: list[tuple[int, int]],
) -> None:
    curve, t_us, mj = Curve(), 0, 500
    shown = []
    for later, more in steps:
        t_us, mj = t_us + later, mj + more
        read_at(curve, t_us, mj)
        shown.append(mj)
    changes = [b for a, b in itertools.pairwise(shown) if b != a]
    first = changes[0] if changes else shown[0]
    assert (curve.edges[-1].energy_uj if curve.edges else 0) == (shown[-1] - first) * 1000
