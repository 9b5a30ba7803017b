"""Steps of a counter that keeps a beat are placed far better than their brackets; others lose nothing."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accounting.ledger.curve import COUNTER_PERIOD_US
from accounting.ledger.grid import LEAST_STEPS, MAX_GAP_US, Grid

READS_US = 30_000
T0_US = 1_790_000_000_000_000


def seen(steps_us: list[int], seed: int = 1, reads_us: int = READS_US) -> list[tuple[int, int, int]]:
    """Brackets [lo, hi] of these steps as dithered reads find them, each with the step's true time."""
    rng, t_us = random.Random(seed), steps_us[0] - reads_us
    reads = []
    while t_us < steps_us[-1] + 2 * reads_us:
        reads.append(t_us)
        t_us += round(reads_us * rng.uniform(0.75, 1.25))
    found = []
    for step_us in steps_us:
        after = next(i for i, read_us in enumerate(reads) if read_us >= step_us)
        found.append((reads[after - 1], reads[after], step_us))
    return found


def beat(count: int, period_us: int, jitter_us: int, seed: int = 2) -> list[int]:
    rng = random.Random(seed)
    return [T0_US + n * period_us + rng.randint(-jitter_us, jitter_us) for n in range(count)]


@pytest.mark.parametrize("period_us", [100_000, 97_300, 250_000])
def test_a_step_is_placed_within_the_jitter(period_us: int) -> None:
    grid = Grid()
    off_us = []
    for number, (lo, hi, step_us) in enumerate(seen(beat(200, period_us, 3_000))):
        placed_us = grid.place(lo, hi, COUNTER_PERIOD_US if period_us < 150_000 else period_us)
        if number > 40:
            off_us.append(abs(placed_us - step_us))
    assert sorted(off_us)[int(0.95 * len(off_us))] < 7_000  # the brackets' middles: 14 ms
    assert grid.period_us == pytest.approx(period_us, rel=0.002)


def test_the_beat_is_kept_through_reads_that_were_far_apart() -> None:
    grid = Grid()
    steps = beat(400, 100_000, 2_000)
    for lo, hi, _ in seen(steps[:100]):
        grid.place(lo, hi, COUNTER_PERIOD_US)
    for step_us in steps[110:200:10]:  # idle: one read each second, of which only the last period counts
        grid.place(step_us - 60_000, step_us + 40_000, COUNTER_PERIOD_US)
    lo, hi, step_us = seen(steps[205:207])[1]
    assert grid.place(lo, hi, COUNTER_PERIOD_US) == pytest.approx(step_us, abs=8_000)


def test_what_moves_with_every_read_is_placed_in_the_middle() -> None:
    grid, rng, lo = Grid(), random.Random(3), T0_US
    for _ in range(100):
        hi = lo + rng.randint(22_000, 38_000)
        assert grid.place(lo, hi, COUNTER_PERIOD_US) == (lo + hi) // 2
        lo = hi


def test_a_long_silence_begins_anew() -> None:
    grid = Grid()
    for lo, hi, _ in seen(beat(50, 100_000, 0)):
        grid.place(lo, hi, COUNTER_PERIOD_US)
    later_us = T0_US + 5_000_000 + 2 * MAX_GAP_US + 37_000
    assert grid.place(later_us, later_us + 30_000, COUNTER_PERIOD_US) == later_us + 15_000
    assert len(grid.at_us) == 1


@given(st.lists(st.tuples(st.integers(0, 400_000), st.integers(1, 100_000)), max_size=3 * LEAST_STEPS))
def test_a_step_never_leaves_its_bracket(gaps: list[tuple[int, int]]) -> None:
    grid, t_us = Grid(), T0_US
    for gap_us, width_us in gaps:
        lo, hi = t_us + gap_us, t_us + gap_us + width_us
        assert lo <= grid.place(lo, hi, COUNTER_PERIOD_US) <= hi
        t_us = hi
