"""The same books again: a journal fed to a fresh ledger."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from accounting.journal import JournalError, Segment, cut_torn_tail, segment_paths
from accounting.ledger import Ledger
from accounting.records import Output


def replay(path: Path) -> Iterator[Output]:
    """Every output of a journal directory or of one segment, in order."""
    if path.is_dir():
        paths = segment_paths(path) or segment_paths(path / "journal")
        if not paths:
            raise JournalError(f"there is no journal in {path}")
    elif path.is_file():
        paths = [path]
    else:
        raise JournalError(f"{path} does not exist")
    for _, out in _hear(Ledger(Segment(paths[0]).state), paths, cut_tail=False):
        yield from out


def _hear(ledger: Ledger, paths: list[Path], *, cut_tail: bool) -> Iterator[tuple[int, list[Output]]]:
    """Each event's outputs, with its segment's number.

    What a damaged or missing segment lost is not in the outputs, but the ledger goes on from the state that
    the next segment begins with.
    """
    before: Segment | None = None
    for path in paths:
        segment = Segment(path)
        if before is not None and (before.damaged or before.number + 1 != segment.number):
            ledger.state = segment.state
        for event in segment.events():
            if out := ledger.hear(event):
                yield segment.number, out
        before = segment
    if cut_tail and before is not None and before.damaged:
        cut_torn_tail(before.path, before.sound_bytes)


def recover(directory: Path, from_segment: int | None) -> tuple[Ledger, Iterator[tuple[int, list[Output]]]]:
    """For a restart: the ledger, and an iterator that brings it up to date.

    Replays from segment `from_segment` (the oldest when None or gone) to the end, yielding each event's
    outputs with the number of its segment. The ledger is whole when the iterator is used up. A torn tail of
    the last segment is cut. Crashing in here changes nothing: the next start does the same again.
    """
    paths = segment_paths(directory)
    if from_segment is not None:
        paths = [p for p in paths if int(p.stem) >= from_segment] or paths[-1:]
    if not paths:
        return Ledger(), iter(())
    ledger = Ledger(Segment(paths[0]).state)
    return ledger, _hear(ledger, paths, cut_tail=True)
