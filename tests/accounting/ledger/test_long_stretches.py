"""Time nobody could measure is booked in few entries, however long it was: what days of downtime cost."""

from __future__ import annotations

import msgspec
import pytest

from accounting.events import CounterReads, FirstToken, MeterDown, RequestFinished, ServiceStarted, Tick
from accounting.ledger.intervals import INTERVAL_US
from tests.accounting.ledger.story import T0_US, Gpu, Power, Story, assert_balanced, booked_uj, charged_uj, us

YEAR_S = 365 * 24 * 3600.0
FEW = 40
"""Entries allowed for a stretch that has millions of intervals."""


def idle_gpu(*, metered: bool = True) -> Gpu:
    return Gpu("GPU-a", Power((-10, 100)), metered=metered)


@pytest.mark.parametrize("metered", [True, False])
def test_a_tick_years_ahead_settles_a_request_in_flight_in_few_entries(metered: bool) -> None:
    story = Story([idle_gpu(metered=metered)], {"main": ["GPU-a"]})
    handle = story.request("r", 1.0, 1.1, None, tokens=50)
    story.run(2.0)
    before = len(story.outputs)
    story.say(Tick(t_us=us(50 * YEAR_S), source=0, handles=[handle], tokens=[1000]))
    assert len(story.outputs) - before < FEW
    assert len(msgspec.json.encode(story.ledger.state)) < 10_000
    story.say(RequestFinished(t_us=us(50 * YEAR_S), handle=handle, status="ok"))
    story.say(Tick(t_us=us(50 * YEAR_S + 10), source=0))
    record = story.records["r"]
    assert_balanced(story.outputs)
    assert (record.energy_uj is not None) == metered
    assert record.unmeasured_us > 49 * YEAR_S * 1e6
    assert charged_uj(story.outputs, "GPU-a") == booked_uj(story.outputs, "GPU-a")


def test_a_meter_back_after_years_with_requests_in_flight_settles_in_few_entries() -> None:
    story = Story([idle_gpu()], {"main": ["GPU-a"]})
    story.request("r", 1.0, 1.1, None, tokens=50)
    story.run(2.0)
    story.say(MeterDown(t_us=us(2), gpu="GPU-a", code="GPU_IS_LOST", message=""))
    back, before = us(YEAR_S), len(story.outputs)
    drawn_mj = 100_000 * int(YEAR_S)
    story.say(CounterReads(gpu="GPU-a", t_lo_us=[back], t_hi_us=[back], energy_mj=[drawn_mj]))
    story.say(Tick(t_us=back + 1_000_000, source=0))
    assert len(story.outputs) - before < FEW
    assert_balanced(story.outputs)
    unmeasured = sum(b.unmeasured_uj for b in story.books)
    assert unmeasured == pytest.approx(drawn_mj * 1000, rel=0.001)
    assert sum(b.requests_uj for b in story.books) < 100 * 1.2 * 1e6


def test_days_of_downtime_do_not_hold_up_the_restart_when_requests_were_left_open() -> None:
    story = Story([idle_gpu()], {"main": ["GPU-a"]})
    story.request("lost", 1.0, 1.1, None, tokens=10)
    story.run(2.0)
    before, back = len(story.outputs), us(30 * 24 * 3600)
    story.say(ServiceStarted(t_us=back, source=0, version="test"))
    story.say(Tick(t_us=back + 100_000, source=0))
    assert len(story.outputs) - before < FEW
    assert story.records["lost"].status == "lost"


def test_the_entries_of_a_long_stretch_follow_each_other_without_gap_or_overlap() -> None:
    story = Story([Gpu("GPU-a", Power((-10, 100)), hidden=[(4.0, 23.0)])], {"main": ["GPU-a"]})
    story.request("r", 3.0, 3.1, 25.0, tokens=500)
    story.run(30.0)
    assert story.books[0].t0_us == T0_US
    for left, right in zip(story.books, story.books[1:], strict=False):
        assert left.t1_us == right.t0_us
        assert left.t1_us % INTERVAL_US == 0
    assert_balanced(story.outputs)


def test_a_first_token_centuries_late_takes_little_memory() -> None:
    story = Story([idle_gpu()], {"main": ["GPU-a"]})
    handle = story.request("r", 1.0, None, None, prompt=1_000_000_000)
    story.run(2.0)
    story.say(FirstToken(t_us=us(300 * YEAR_S), handle=handle))
    assert len(msgspec.json.encode(story.ledger.state)) < 10_000
