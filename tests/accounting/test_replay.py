"""A journal replayed gives the same outputs again, and so does what a restart makes of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from accounting.journal import Journal, JournalError, Segment, segment_paths
from accounting.ledger import Ledger
from accounting.records import Output, RequestRecord
from accounting.replay import recover, replay
from tests.accounting.ledger.story import Gpu, Power, Story

EVENTS_PER_SEGMENT = 150


def busy_story() -> Story:
    """Half a minute, its end quiet: overlapping requests on two GPUs, of which one goes away for a while."""
    story = Story(
        [
            Gpu("GPU-a", Power((-10, 100), (5, 700), (25, 100))),
            Gpu("GPU-b", Power((-10, 100), (5, 500), (25, 100)), hidden=[(9, 16)], resets=[20]),
        ],
        {"main": ["GPU-a", "GPU-b"], "other": ["GPU-a"]},
    )
    for i in range(25):
        backend = "other" if i % 3 == 0 else "main"
        start = 5 + 0.61 * i
        story.request(
            f"r{i}", start, start + 0.2, start + 2.3, tokens=90, backend=backend, streamed=i % 4 > 0
        )
    story.run(33.0)
    return story


def written(directory: Path, story: Story) -> list[list[Output]]:
    """Tell a live ledger and a journal the story; what the ledger concluded, by segment."""
    journal, ledger = Journal(directory), Ledger()
    parts: list[list[Output]] = []
    for i, event in enumerate(story.events):
        if i % EVENTS_PER_SEGMENT == 0:
            journal.begin_segment(ledger.state)
            parts.append([])
        journal.append(event)
        parts[-1] += ledger.hear(event)
    journal.close()
    return parts


@pytest.fixture(scope="module")
def story() -> Story:
    return busy_story()


def test_a_journal_replayed_gives_the_outputs_of_the_live_ledger(tmp_path: Path, story: Story) -> None:
    parts = written(tmp_path, story)
    assert len(parts) > 4
    assert len(story.records) == 25
    assert list(replay(tmp_path)) == [o for part in parts for o in part] == story.outputs


def test_a_segment_replayed_alone_gives_its_part_of_the_outputs(tmp_path: Path, story: Story) -> None:
    parts = written(tmp_path, story)
    for path, part in zip(segment_paths(tmp_path), parts, strict=True):
        assert list(replay(path)) == part


def test_the_data_directory_will_do_for_a_replay(tmp_path: Path, story: Story) -> None:
    written(tmp_path / "journal", story)
    assert list(replay(tmp_path)) == story.outputs


def test_a_replay_of_nothing_says_so(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="no journal"):
        list(replay(tmp_path))
    with pytest.raises(JournalError, match="does not exist"):
        list(replay(tmp_path / "nowhere"))


def test_a_journal_whose_old_segments_are_dropped_replays_the_rest(tmp_path: Path, story: Story) -> None:
    parts = written(tmp_path, story)
    for path in segment_paths(tmp_path)[:2]:
        path.unlink()
    assert list(replay(tmp_path)) == [o for part in parts[2:] for o in part]


def test_recovery_gives_each_output_with_its_segment_and_the_same_ledger(
    tmp_path: Path, story: Story
) -> None:
    parts = written(tmp_path, story)
    ledger, outputs = recover(tmp_path, None)
    found: dict[int, list[Output]] = {}
    for segment, out in outputs:
        found.setdefault(segment, []).extend(out)
    assert found == {n: part for n, part in enumerate(parts, start=1) if part}
    assert ledger.state == story.ledger.state


@pytest.mark.parametrize(("asked", "begins"), [(3, 3), (1, 1), (0, 1), (99, -1)])
def test_recovery_begins_where_the_store_says(tmp_path: Path, story: Story, asked: int, begins: int) -> None:
    parts = written(tmp_path, story)
    begins = len(parts) if begins < 0 else begins
    ledger, outputs = recover(tmp_path, asked)
    assert [o for _, out in outputs for o in out] == [o for part in parts[begins - 1 :] for o in part]
    assert ledger.state == story.ledger.state


def test_recovery_of_an_empty_directory_is_a_fresh_ledger(tmp_path: Path) -> None:
    ledger, outputs = recover(tmp_path, None)
    assert list(outputs) == []
    assert ledger.state == Ledger().state


@pytest.mark.parametrize("loss", ["damaged", "missing"])
def test_after_a_segment_that_is_damaged_or_missing_the_next_one_puts_the_ledger_right(
    tmp_path: Path, story: Story, loss: str
) -> None:
    parts = written(tmp_path, story)
    lost = segment_paths(tmp_path)[2]
    if loss == "missing":
        lost.unlink()
    else:
        lines = lost.read_bytes().splitlines(keepends=True)
        lines[20] = b"#" * len(lines[20])
        lost.write_bytes(b"".join(lines))
    ledger, found = recover(tmp_path, None)
    outputs = [o for _, out in found for o in out]
    assert ledger.state == story.ledger.state
    after = [o for part in parts[3:] for o in part]
    assert outputs[len(outputs) - len(after) :] == after
    assert list(replay(tmp_path)) == outputs
    assert len([o for o in outputs if isinstance(o, RequestRecord)]) > 10


def test_recovery_stopped_half_way_does_the_same_again(tmp_path: Path, story: Story) -> None:
    written(tmp_path, story)
    last = segment_paths(tmp_path)[-1]
    with last.open("ab") as file:
        file.write(b'{"type":"tick","t_us":1')
    size = last.stat().st_size
    _, outputs = recover(tmp_path, None)
    for _ in range(10):
        next(outputs)
    assert last.stat().st_size == size
    _, again = recover(tmp_path, None)
    assert [o for _, out in again for o in out] == story.outputs
    assert last.stat().st_size < size
    assert not Segment(last).damaged


@pytest.mark.parametrize("left", [b"", b"\0" * 4096, b'{"joulegate_journal":1,"segm'])
def test_a_last_segment_whose_beginning_was_lost_is_set_aside(
    left: bytes, tmp_path: Path, story: Story, caplog: pytest.LogCaptureFixture
) -> None:
    parts = written(tmp_path, story)
    last = segment_paths(tmp_path)[-1]
    last.write_bytes(left)
    ledger, outputs = recover(tmp_path, None)
    assert [o for _, out in outputs for o in out] == [o for part in parts[:-1] for o in part]
    assert last.with_suffix(".damaged").read_bytes() == left
    assert "set aside" in caplog.text
    journal = Journal(tmp_path)
    journal.begin_segment(ledger.state)
    journal.close()
    assert list(replay(tmp_path)) == [o for part in parts[:-1] for o in part]


def test_an_earlier_segment_that_is_none_stops_the_recovery(tmp_path: Path, story: Story) -> None:
    written(tmp_path, story)
    segment_paths(tmp_path)[0].write_bytes(b"nothing of ours")
    with pytest.raises(JournalError, match="not a journal segment"):
        recover(tmp_path, None)
