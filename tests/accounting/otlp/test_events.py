"""What engines tell is kept: in the journal, in its order, and again after a restart."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from accounting.events import AnyEvent, EngineCounters, EngineTimes, RequestTimes
from accounting.journal import Journal, Segment, segment_paths
from accounting.ledger import Ledger, LedgerState
from tests.accounting.ledger.story import Gpu, Power, Story

EVENTS: list[AnyEvent] = [
    RequestTimes(t_us=1, handle=5, times=EngineTimes(queue_ms=0.25, first_token_ms=1.5, generation_ms=0.0)),
    RequestTimes(t_us=2, handle=5, times=EngineTimes()),
    EngineCounters(
        t_us=3,
        backend="b",
        steps=2**53,
        running=1,
        waiting=0,
        prompt_tokens=4,
        cached_tokens=2,
        generation_tokens=3,
    ),
    EngineCounters(t_us=4, backend="b", steps=0),
]


def test_they_come_back_from_the_journal_as_they_were(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.begin_segment(LedgerState())
    for event in EVENTS:
        journal.append(event)
    journal.close()
    (path,) = segment_paths(tmp_path)
    assert list(Segment(path).events()) == EVENTS


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (EVENTS[1], b'{"type":"times","t_us":2,"handle":5,"times":{}}'),
        (EVENTS[3], b'{"type":"counters","t_us":4,"backend":"b","steps":0}'),
    ],
)
def test_what_is_unknown_is_left_out_and_0_is_written(event: AnyEvent, line: bytes) -> None:
    assert msgspec.json.encode(event) == line


def test_a_replay_of_them_comes_to_the_same_ledger(tmp_path: Path) -> None:
    story = Story([Gpu("GPU-a", Power((-1, 300)))], {"b": ["GPU-a"]})
    story.request("r", 0.5, 0.6, 1.5, tokens=30)
    story.run(2.0)
    told, outputs = Ledger(), []
    journal = Journal(tmp_path)
    journal.begin_segment(LedgerState())
    for event in story.events:
        for one in (*EVENTS, event):
            journal.append(one)
            outputs += told.hear(one)
    journal.close()
    again, (path,) = Ledger(), segment_paths(tmp_path)
    assert [output for event in Segment(path).events() for output in again.hear(event)] == outputs
    assert again.state == told.state
    assert outputs
