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
    ledger = Ledger(Segment(paths[0]).state)
    for part in paths:
        for event in Segment(part).events():
            yield from ledger.hear(event)


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

    def outputs() -> Iterator[tuple[int, list[Output]]]:
        for path in paths:
            segment = Segment(path)
            for event in segment.events():
                if out := ledger.hear(event):
                    yield segment.number, out
            if path == paths[-1]:
                cut_torn_tail(path, segment.sound_bytes)

    return ledger, outputs()
