"""What is flushed stays, whatever happens to the process or the disk."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from accounting.events import AnyEvent, RequestStarted, Tick
from accounting.journal import FORMAT, Journal, JournalError, Segment, cut_torn_tail, segment_paths
from accounting.ledger import Ledger, LedgerState
from accounting.ledger.curve import Curve
from accounting.ledger.state import GpuState
from accounting.replay import recover
from tests.accounting.journal_child import request
from tests.accounting.ledger.story import Gpu, Power, Story

ROOT = Path(__file__).parents[2]


def child(mode: str, directory: Path) -> list[str]:
    return [sys.executable, "-m", "tests.accounting.journal_child", mode, str(directory)]


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal(tmp_path)
    yield journal
    journal.close()


def events_in(directory: Path) -> list[AnyEvent]:
    return [event for path in segment_paths(directory) for event in Segment(path).events()]


def test_events_come_back_as_they_were_and_in_order(journal: Journal) -> None:
    story = Story([Gpu("GPU-a", Power((-1, 300)))], {"main": ["GPU-a"]})
    story.request("r", 0.5, 0.6, 1.5, tokens=30)
    story.run(3.0)
    journal.begin_segment(LedgerState())
    for event in story.events:
        journal.append(event)
    assert journal.flush()
    assert events_in(journal.directory) == story.events


def test_a_segment_begins_with_the_state_it_was_given(journal: Journal) -> None:
    story = Story([Gpu("GPU-a", Power((-1, 300)))], {"main": ["GPU-a"]})
    story.request("r", 0.5, 0.6, None, tokens=30)
    story.run(2.0)
    journal.begin_segment(story.ledger.state)
    segment = Segment(segment_paths(journal.directory)[0])
    assert segment.state == story.ledger.state
    assert segment.number == 1


def test_nothing_is_on_the_disk_before_flush(journal: Journal) -> None:
    journal.begin_segment(LedgerState())
    journal.append(request(1))
    assert journal.pending_bytes > 0
    assert events_in(journal.directory) == []
    assert journal.flush()
    assert journal.pending_bytes == 0
    assert events_in(journal.directory) == [request(1)]


def test_segments_are_numbered_on_and_old_ones_dropped(tmp_path: Path) -> None:
    first = Journal(tmp_path, segment_bytes=400)
    first.begin_segment(LedgerState())
    for number in range(10):
        first.append(request(number))
        assert first.flush()
        if first.wants_new_segment:
            first.begin_segment(LedgerState())
    assert first.segment > 2
    first.close()
    last = first.segment
    second = Journal(tmp_path)
    assert second.id == first.id
    second.begin_segment(LedgerState())
    assert [int(p.stem) for p in segment_paths(tmp_path)] == list(range(1, last + 2))
    assert events_in(tmp_path) == [request(n) for n in range(10)]
    second.drop_before(last)
    assert [int(p.stem) for p in segment_paths(tmp_path)] == [last, last + 1]
    second.close()


def test_a_journal_waits_with_a_new_segment_until_all_is_written(tmp_path: Path) -> None:
    journal = Journal(tmp_path, segment_bytes=0)
    journal.begin_segment(LedgerState())
    at_the_start = journal.wants_new_segment
    journal.append(request(1))
    before_it_is_written = journal.wants_new_segment
    journal.flush()
    assert [at_the_start, before_it_is_written, journal.wants_new_segment] == [False, False, True]
    journal.close()


def test_a_journal_that_is_synced_holds_the_same(tmp_path: Path) -> None:
    journal = Journal(tmp_path, fsync=True)
    journal.begin_segment(LedgerState())
    journal.append(request(1))
    assert journal.flush()
    journal.close()
    assert events_in(tmp_path) == [request(1)]


def test_what_is_pending_is_written_at_the_close(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.begin_segment(LedgerState())
    journal.append(request(1))
    journal.close()
    assert events_in(tmp_path) == [request(1)]


def test_a_second_process_cannot_hold_the_same_journal(journal: Journal) -> None:
    def ask() -> str:
        done = subprocess.run(
            child("hold", journal.directory), cwd=ROOT, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    assert "in use by another joulegate" in ask()
    with pytest.raises(JournalError, match="in use"):
        Journal(journal.directory)


def test_a_closed_journal_can_be_held_by_the_next(tmp_path: Path) -> None:
    Journal(tmp_path).close()
    done = subprocess.run(child("hold", tmp_path), cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "held"


def test_an_identity_that_a_crash_left_empty_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / "id").write_text("")
    journal = Journal(tmp_path)
    journal.close()
    assert len(journal.id) == 32
    again = Journal(tmp_path)
    again.close()
    assert again.id == journal.id


def test_a_place_that_cannot_hold_a_journal_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(JournalError, match="cannot use"):
        Journal(tmp_path / "file" / "journal")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "not a journal segment"),
        ("{}\n", "not a journal segment"),
        ("\xff\n", "not a journal segment"),
        (f'{{"joulegate_journal":{FORMAT + 1},"segment":1,"state":{{}}}}\n', "this version reads"),
    ],
)
def test_a_file_that_is_no_segment_of_ours_is_refused(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "00000001.ndjson"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(JournalError, match=why):
        Segment(path)


def test_a_part_file_left_by_a_crash_is_nobodys_segment(journal: Journal) -> None:
    journal.begin_segment(LedgerState())
    (journal.directory / "00000002.part").write_text("torn")
    assert [p.name for p in segment_paths(journal.directory)] == ["00000001.ndjson"]
    journal.begin_segment(LedgerState())
    assert len(segment_paths(journal.directory)) == 2


def small_journal(directory: Path) -> tuple[bytes, list[AnyEvent]]:
    """A journal of one segment: its bytes, and its events."""
    events: list[AnyEvent] = [request(1), Tick(t_us=5, source=0, handles=[1], tokens=[2]), request(2)]
    journal = Journal(directory)
    journal.begin_segment(LedgerState(gpus={}))
    for event in events:
        journal.append(event)
    journal.close()
    return segment_paths(directory)[0].read_bytes(), events


def test_a_journal_cut_anywhere_gives_back_every_whole_line_and_goes_on(tmp_path: Path) -> None:
    whole, events = small_journal(tmp_path / "whole")
    header = whole.index(b"\n") + 1
    for length in range(header, len(whole) + 1):
        cut = tmp_path / "cut"
        cut.mkdir()
        path = cut / "00000001.ndjson"
        path.write_bytes(whole[:length])
        sound = events[: whole[header:length].count(b"\n")]
        ledger, outputs = recover(cut, None)
        assert list(outputs) == []
        straight = Ledger()
        for event in sound:
            straight.hear(event)
        assert ledger.state == straight.state
        assert path.read_bytes() == whole[: whole[:length].rindex(b"\n") + 1]
        journal = Journal(cut)
        journal.begin_segment(ledger.state)
        journal.append(request(9))
        journal.close()
        assert events_in(cut) == [*sound, request(9)]
        for file in cut.iterdir():
            file.unlink()
        cut.rmdir()


def test_reading_stops_at_damage_and_what_follows_is_kept_on_the_disk(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole, events = small_journal(tmp_path)
    path = segment_paths(tmp_path)[0]
    damaged = whole.replace(b'"tick"', b'"t\xffck"')
    path.write_bytes(damaged)
    segment = Segment(path)
    assert list(segment.events()) == events[:1]
    assert segment.damaged
    assert "damaged at byte" in caplog.text
    ledger, outputs = recover(tmp_path, None)
    list(outputs)
    assert list(ledger.state.open) == [1]
    assert path.read_bytes() == damaged


def test_a_tail_is_cut_only_if_it_is_one_line_not_finished(tmp_path: Path) -> None:
    path = tmp_path / "segment"
    path.write_bytes(b"sound\ntorn")
    cut_torn_tail(path, 6)
    assert path.read_bytes() == b"sound\n"
    cut_torn_tail(path, 6)
    assert path.read_bytes() == b"sound\n"
    path.write_bytes(b"sound\nodd\nsound\n")
    cut_torn_tail(path, 6)
    assert path.read_bytes() == b"sound\nodd\nsound\n"


def test_on_a_full_disk_events_stay_in_memory_and_are_written_later(tmp_path: Path) -> None:
    done = subprocess.run(child("full", tmp_path), cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout.strip(), done.returncode) == ("well", 0), done.stderr


def test_a_segment_that_finds_no_room_leaves_nothing_behind(small_disk: Path) -> None:
    journal = Journal(small_disk / "journal")
    journal.begin_segment(LedgerState())
    journal.append(request(1))
    big = LedgerState(gpus={"GPU-a": GpuState(gpu="x" * 200_000, settled_us=0, curve=Curve())})
    with pytest.raises(JournalError, match="No space left"):
        journal.begin_segment(big)
    assert [p.name for p in segment_paths(journal.directory)] == ["00000001.ndjson"]
    assert not list(journal.directory.glob("*.part"))
    journal.append(request(2))
    assert journal.flush()
    assert events_in(journal.directory) == [request(1), request(2)]
    journal.close()


def test_nothing_flushed_is_missing_after_a_kill(tmp_path: Path) -> None:
    with subprocess.Popen(child("append", tmp_path), cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        told = [int(process.stdout.readline()) for _ in range(50)]
        process.kill()
        told += [int(line) for line in process.stdout if line.endswith("\n")]
    assert process.returncode == -9
    assert len(segment_paths(tmp_path)) > 2
    ledger, outputs = recover(tmp_path, None)
    list(outputs)
    numbers = sorted(ledger.state.open)
    assert numbers == list(range(1, len(numbers) + 1))
    assert numbers[-1] >= told[-1]
    held = ledger.state.open[told[-1]].told.started
    assert isinstance(held, RequestStarted)
    assert held == request(told[-1])
    Journal(tmp_path).close()
