"""What becomes known when records are out already: corrections, and the sums that they leave alone."""

from __future__ import annotations

import numpy as np
import pytest

from accounting.events import BackendDeclared, EngineTimes, RequestTimes
from accounting.ledger import Ledger
from accounting.ledger.history import MOST_ENTRIES, History, Kept
from accounting.records import Correction, RequestRecord
from tests.accounting.ledger.story import (
    T0_US,
    Gpu,
    Power,
    Story,
    assert_all_charged,
    energy_uj,
    still_open,
    us,
    written_and_read,
)

PREFILL_W, DECODE_W = 700, 400


def corrections(story: Story) -> list[Correction]:
    return [output for output in story.outputs if isinstance(output, Correction)]


def first_said(story: Story, name: str) -> RequestRecord:
    """The record as it was when it came out."""
    (record,) = (o for o in story.outputs if isinstance(o, RequestRecord) and o.request_id == name)
    return record


def two_streams(until: float) -> Story:
    story = Story([Gpu("GPU-a", Power((-10, 100), (6.0, DECODE_W), (until, 100)))], {"main": ["GPU-a"]})
    for i in range(2):
        story.request(f"stream-{i}", 6.0, 6.1, until, tokens=round((until - 6.1) * 50))
    return story


def test_a_prompt_of_seconds_is_charged_for_the_time_it_was_computed_in() -> None:
    """While 50,000 prompt tokens are computed for 4 s, the two streams beside it get a token a second."""
    story = Story([Gpu("GPU-a", Power((-10, 100), (6.0, 500), (36.0, 100)))], {"main": ["GPU-a"]})
    for i in range(2):
        handle = story.request(f"stream-{i}", 6.0, 6.1, 36.0, tokens=1)
        for begin, end, a_second in ((6.2, 10, 50), (10, 14, 1), (14, 20, 50), (20, 24, 1), (24, 35.9, 50)):
            story.tokens(handle, begin, end, round((end - begin) * a_second))
    story.request("teacher", 10.0, 14.0, 14.5, prompt=50_000, tokens=10)
    story.request("long", 20.0, 24.0, 24.5, prompt=50_000, tokens=10)
    story.run(45.0)
    taken = energy_uj(story.records["long"])
    assert 0.8 * 4.0 * 500e6 < taken < 4.5 * 500e6
    assert_all_charged(story)


def test_a_stream_that_ended_meanwhile_gets_back_what_the_prompt_beside_it_drew() -> None:
    story = two_streams(40.0)
    story.request("short", 20.0, 20.05, 21.0, tokens=45)
    story.request("long", 19.8, 24.0, 24.5, prompt=50_000, tokens=10)
    story.run(45.0)
    was, now = energy_uj(first_said(story, "short")), energy_uj(story.records["short"])
    assert now < 0.8 * was
    assert "uid-2" in {correction.uid for correction in corrections(story)}
    assert_all_charged(story)


def test_corrections_sum_to_nothing() -> None:
    story = two_streams(40.0)
    for i in range(8):
        story.request(f"unseen-{i}", 20.0 + i, None, 24.0 + i, tokens=200, streamed=False)
        story.request(f"seen-{i}", 20.0 + i, 20.05 + i, 20.9 + i, tokens=45)
    story.run(60.0)
    assert_all_charged(story)
    assert corrections(story)
    assert all(c.energy_uj == sum(s.prefill_uj + s.decode_uj for s in c.shares) for c in corrections(story))


def test_times_that_come_after_the_record_correct_it() -> None:
    story = two_streams(60.0)
    story.say(BackendDeclared(t_us=T0_US, backend="main", gpus=["GPU-a"], tells_late=True))
    # It was preempted: without its times it looks like 0.4 s of decoding at the end.
    handle = story.request("queued", 20.0, None, 30.0, tokens=20, streamed=False, prompt=4000)
    times = EngineTimes(queue_ms=2_000.0, first_token_ms=2_000.0, generation_ms=6_000.0)
    story.plan(35.0, RequestTimes(t_us=us(35.0), handle=handle, times=times))
    story.run(34.0)
    assert first_said(story, "queued").state == "final"
    story.run(42.0)
    assert "queued" in {correction.request_id for correction in corrections(story)}
    assert story.records["queued"].first_token_us == us(24.0)
    assert story.records["queued"].scheduled_us == us(22.0)
    story.run(70.0)
    assert_all_charged(story)


def test_times_of_a_request_long_forgotten_change_nothing() -> None:
    story = two_streams(30.0)
    handle = story.request("past", 10.0, 10.1, 12.0, tokens=90)
    times = EngineTimes(queue_ms=0.0, first_token_ms=1.0, generation_ms=1.0)
    story.run(60.0)
    before = energy_uj(story.records["past"])
    story.say(RequestTimes(t_us=us(61.0), handle=handle, times=times))
    story.run(65.0)
    assert energy_uj(story.records["past"]) == before
    assert_all_charged(story)


def test_what_is_kept_survives_a_restart() -> None:
    story = two_streams(40.0)
    story.request("unseen", 20.0, None, 30.0, tokens=300, streamed=False)
    story.request("short", 21.0, 21.05, 22.0, tokens=45)
    story.run(25.0)
    assert story.ledger.state.histories["main"].kept
    story.ledger = Ledger(written_and_read(story.ledger.state))
    story.run(50.0)
    assert "short" in story.records
    assert_all_charged(story)


def test_nothing_is_kept_once_all_is_known() -> None:
    story = two_streams(20.0)
    story.run(30.0)
    assert not still_open(story.ledger)
    assert not story.ledger.state.open
    assert not story.ledger.state.histories


def test_a_crowded_history_lets_its_oldest_intervals_go() -> None:
    story = two_streams(20.0)
    story.run(18.0)
    (kept, *_) = History.of(story.ledger.state.histories["main"]).kept
    copies = MOST_ENTRIES // kept.entries + 10
    history = History([_later(kept, n) for n in range(copies)])
    dropped = history.drop(np.array([0]), np.array([us(1e6)]))
    assert [k.t0_us for k in dropped] == [kept.t0_us + n * 500_000 for n in range(len(dropped))]
    assert sum(k.entries for k in history.kept) <= MOST_ENTRIES


def _later(kept: Kept, intervals: int) -> Kept:
    return Kept(kept.t0_us + intervals * 500_000, kept.handles, kept.works, kept.gpus, kept.energy_j)


def test_two_unseen_answers_alike_are_charged_alike() -> None:
    story = two_streams(40.0)
    for name in ("a", "b"):
        story.request(name, 20.0, None, 27.3, tokens=250, streamed=False)
    story.run(50.0)
    assert energy_uj(story.records["a"]) == pytest.approx(energy_uj(story.records["b"]), abs=200)
