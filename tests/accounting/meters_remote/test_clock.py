"""The offset of another machine's clock: right within what it says, whatever the network does."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from accounting.meters.remote_clock import RemoteClock

trips = st.lists(st.tuples(st.integers(1, 400_000), st.integers(1, 400_000)), min_size=1, max_size=40)


@given(trips, st.integers(-(10**7), 10**7), st.integers(-100, 100), st.integers(0, 50_000))
def test_the_true_offset_is_within_what_is_said(
    trips: list[tuple[int, int]], offset_us: int, drift_ppm: int, work_us: int
) -> None:
    """`trips`: how long each question and each answer took; `work_us`: how long they thought about it."""
    clock, now_us = RemoteClock(), 10**15

    def theirs(t_us: int) -> int:
        return t_us + offset_us + (t_us - 10**15) * drift_ppm // 1_000_000

    for there_us, back_us in trips:
        received = now_us + there_us
        done = received + work_us
        clock.add(now_us, done + back_us, theirs(received), theirs(done))
        now_us = done + back_us + 2_000_000
        said = clock.offset_us(now_us)
        assert said is not None
        assert abs(said[0] - (theirs(now_us) - now_us)) <= said[1] + 2  # whole microseconds
    assert clock.steps == 0


def test_the_quickest_exchange_decides() -> None:
    clock = RemoteClock()
    clock.add(0, 900_000, 3_450_000, 3_450_000)
    clock.add(1_000_000, 1_001_000, 4_000_500, 4_000_500)
    clock.add(2_000_000, 2_900_000, 5_890_000, 5_890_000)
    said = clock.offset_us(2_900_000)
    assert said is not None
    assert abs(said[0] - 3_000_000) < 1_000
    assert said[1] < 1_000


def test_a_stamp_of_milliseconds_bounds_no_better_than_that() -> None:
    clock = RemoteClock()
    clock.add(5_000_100, 5_000_300, 5_000_999, 5_000_000)
    said = clock.offset_us(5_000_300)
    assert said is not None
    assert abs(said[0]) <= said[1] <= 1_000


def test_a_clock_that_is_set_is_believed_at_once() -> None:
    clock = RemoteClock()
    for second in range(10):
        clock.add(second * 10**6, second * 10**6 + 500, second * 10**6 + 250, second * 10**6 + 250)
    clock.add(10 * 10**6, 10 * 10**6 + 500, 17 * 10**6 + 250, 17 * 10**6 + 250)
    said = clock.offset_us(10 * 10**6 + 500)
    assert said is not None
    assert abs(said[0] - 7 * 10**6) < 1_000
    assert clock.steps == 1


def test_drift_is_followed() -> None:
    clock = RemoteClock()
    for second in range(600):
        t_us = second * 10**6
        theirs = t_us + 250 + second * 50  # 50 ppm fast
        clock.add(t_us, t_us + 500, theirs, theirs)
    said = clock.offset_us(600 * 10**6)
    assert said is not None
    assert abs(said[0] - 600 * 50) < 1_000
    assert clock.steps == 0


def test_nothing_is_said_before_the_first_exchange() -> None:
    clock = RemoteClock()
    assert clock.offset_us(5) is None
    clock.add(100, 50, 80, 80)  # an answer before its question
    assert clock.offset_us(200) is None
