"""The same books again: a journal fed to a fresh ledger."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from accounting.journal import JournalError, Segment, cut_torn_tail, segment_paths, set_aside_damaged
from accounting.ledger import Ledger
from accounting.ledger.state import LedgerState
from accounting.records import Output, RequestRecord


class Replay:
    """A journal directory or one segment, heard again. Raises JournalError where there is none."""

    def __init__(self, path: Path) -> None:
        if path.is_dir():
            self.paths = segment_paths(path) or segment_paths(path / "journal")
            if not self.paths:
                raise JournalError(f"there is no journal in {path}")
        elif path.is_file():
            self.paths = [path]
        else:
            raise JournalError(f"{path} does not exist")
        self.begins = Segment(self.paths[0]).state
        self.ledger = Ledger(Segment(self.paths[0]).state)  # a copy: the ledger goes on from it
        self.whole = True
        """Whether nothing was lost between the segments heard so far."""

    def outputs(self) -> Iterator[Output]:
        """Every output, in order."""
        for _, out in _hear(self.ledger, self.paths, cut_tail=False, lost=self._lost):
            yield from out

    def _lost(self) -> None:
        self.whole = False


def replay(path: Path) -> Iterator[Output]:
    """Every output of a journal directory or of one segment, in order."""
    yield from Replay(path).outputs()


HOSTS = "hosts"
"""All hosts together: a record says what it has of them in one sum."""


def owed_uj(state: LedgerState) -> dict[str, int]:
    """By GPU, and HOSTS: what books gave to requests that their records, corrections included, have not yet.

    That is what those without a record were charged, and what corrections that are still to come will bring.
    """
    owed: dict[str, int] = {}
    for request in state.open.values():
        told = request.told
        charged = zip(told.gpus, request.by_gpu["prefill_uj"], request.by_gpu["decode_uj"], strict=True)
        for gpu, prefill_uj, decode_uj in charged:
            owed[gpu] = owed.get(gpu, 0) + prefill_uj + decode_uj
        for share in told.recorded.shares if told.recorded is not None else ():
            owed[share.gpu] = owed.get(share.gpu, 0) - share.prefill_uj - share.decode_uj
        if host_uj := int(request.numbers.get("host_uj", 0)) - _host_uj(told.recorded):
            owed[HOSTS] = owed.get(HOSTS, 0) + host_uj
    return owed


def _host_uj(record: RequestRecord | None) -> int:
    return (record.host_uj or 0) if record is not None else 0


def _hear(
    ledger: Ledger,
    paths: list[Path],
    *,
    cut_tail: bool,
    lost: Callable[[], object] = lambda: None,
) -> Iterator[tuple[int, list[Output]]]:
    """Each event's outputs, with its segment's number.

    What a damaged or missing segment lost is not in the outputs, but the ledger goes on from the state that
    the next segment begins with. `lost` is called then.
    """
    before: Segment | None = None
    for path in paths:
        segment = Segment(path)
        if before is not None and (before.damaged or before.number + 1 != segment.number):
            ledger.state = segment.state
            lost()
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
    the last segment is cut, and a last segment without a header set aside. Crashing in here changes nothing:
    the next start does the same again.
    """
    paths = set_aside_damaged(segment_paths(directory))
    if from_segment is not None:
        paths = [p for p in paths if int(p.stem) >= from_segment] or paths[-1:]
    if not paths:
        return Ledger(), iter(())
    ledger = Ledger(Segment(paths[0]).state)
    return ledger, _hear(ledger, paths, cut_tail=True)


def again(directory: Path, from_segment: int | None) -> Iterator[tuple[int, list[Output]]]:
    """What `recover` yields, beside the service that writes the journal: nothing is cut."""
    paths = segment_paths(directory)
    if from_segment is not None:
        paths = [p for p in paths if int(p.stem) >= from_segment] or paths[-1:]
    if paths:
        yield from _hear(Ledger(Segment(paths[0]).state), paths, cut_tail=False)
