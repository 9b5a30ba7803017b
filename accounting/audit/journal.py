"""The journal replayed and compared with the store, output by output.

The store takes what the ledger concludes in order, so what is missing behind all that is stored is not there
yet: the service still runs, or was killed. What is missing before is a finding.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from itertools import islice
from math import isclose
from pathlib import Path
from typing import Any

from accounting.audit.report import EXAMPLES, Finding, JournalSums, Report
from accounting.journal import Segment, segment_paths
from accounting.ledger.state import LedgerState
from accounting.records import BookEntry, Output, RequestRecord
from accounting.replay import replay
from accounting.store.audit_queries import Snapshot
from accounting.store.schema import StoredBook, StoredRequest, stored_text
from accounting.store.statements import ERROR_TEXT_LIMIT

BATCH = 500
"""Outputs compared at a time."""

_REQUEST_FIELDS = tuple(c.name for c in StoredRequest.__table__.columns)
_BOOK_FIELDS = tuple(c.name for c in StoredBook.__table__.columns)


def audit_journal(store: Snapshot, directory: Path, report: Report, advance: Callable[[int], None]) -> None:
    """Compare the journal in `directory` with the store. Raises JournalError, OSError."""
    paths = segment_paths(directory)
    begins = Segment(paths[0]).state
    report.journal = sums = JournalSums(segments=len(paths))
    with closing(_Seen()) as seen:
        comparison = _Comparison(store, report)
        outputs = replay(directory)
        while batch := list(islice(outputs, BATCH)):
            seen.put(batch)
            comparison.compare(batch)
            sums.requests += sum(isinstance(output, RequestRecord) for output in batch)
            advance(len(batch))
        sums.intervals = seen.intervals
        comparison.end(known=_name(directory) in store.journals())
        _untold(store, seen, begins, report)


def _name(directory: Path) -> str | None:
    """What the journal is called in the store."""
    path = directory / "id"
    return path.read_text().strip() if path.exists() else None


class _Seen:
    """Keys of all outputs of the journal, in a file that goes by itself."""

    def __init__(self) -> None:
        self._file = sqlite3.connect("")
        self._file.execute("CREATE TABLE uids (uid TEXT PRIMARY KEY) WITHOUT ROWID")
        self._file.execute(
            "CREATE TABLE books (gpu TEXT, t0_us INTEGER, PRIMARY KEY (gpu, t0_us)) WITHOUT ROWID"
        )
        self.intervals = 0
        self.first_us: dict[str, int] = {}
        """By GPU: where its first entry begins."""
        self.first_request_us: int | None = None

    def put(self, outputs: Sequence[Output]) -> None:
        for output in outputs:
            if isinstance(output, RequestRecord):
                self._file.execute("INSERT OR IGNORE INTO uids VALUES (?)", (stored_text(output.uid),))
                first = self.first_request_us
                self.first_request_us = min(output.started_us, output.started_us if first is None else first)
            else:
                self.intervals += 1
                self._file.execute("INSERT OR IGNORE INTO books VALUES (?, ?)", (output.gpu, output.t0_us))
                self.first_us.setdefault(output.gpu, output.t0_us)

    def has_uid(self, uid: str) -> bool:
        return self._file.execute("SELECT 1 FROM uids WHERE uid = ?", (uid,)).fetchone() is not None

    def has_book(self, gpu: str, t0_us: int) -> bool:
        query = "SELECT 1 FROM books WHERE gpu = ? AND t0_us = ?"
        return self._file.execute(query, (gpu, t0_us)).fetchone() is not None

    def close(self) -> None:
        self._file.close()


class _Comparison:
    """Compares outputs with what is stored; holds back what is missing until something behind it is there."""

    def __init__(self, store: Snapshot, report: Report) -> None:
        self._store, self._report = store, report
        self._missing: list[Finding] = []
        self._missed = 0
        self._found = False

    def compare(self, batch: Sequence[Output]) -> None:
        requests = self._store.requests_by_uid([o.uid for o in batch if isinstance(o, RequestRecord)])
        starts: dict[str, list[int]] = {}
        for output in batch:
            if isinstance(output, BookEntry):
                starts.setdefault(output.gpu, []).append(output.t0_us)
        books = {gpu: self._store.books_by_start(gpu, t0s) for gpu, t0s in starts.items()}
        for output in batch:
            if isinstance(output, RequestRecord):
                where = f"request {output.uid}"
                row, shares = requests.get(stored_text(output.uid), (None, ()))
            else:
                where = f"{output.gpu} at {output.t0_us}"
                row, shares = books[output.gpu].get(output.t0_us), ()
            if row is None:
                self._miss(where)
                continue
            self._tell_missing()
            self._found = True
            for what in _differences(output, row, shares):
                self._report.add("differs", where, what)

    def end(self, *, known: bool) -> None:
        """`known`: something of this journal was stored once."""
        if known and not self._found:
            self._tell_missing()
        elif self._report.journal is not None:
            self._report.journal.not_stored_yet = self._missed

    def _miss(self, where: str) -> None:
        self._missed += 1
        if len(self._missing) < EXAMPLES:
            self._missing.append(
                Finding("missing-in-store", where, "the journal tells it, the store has it not")
            )

    def _tell_missing(self) -> None:
        for finding in self._missing:
            self._report.add(finding.kind, finding.where, finding.what)
        if self._missed > len(self._missing):
            self._report.found["missing-in-store"] += self._missed - len(self._missing)
        self._missing, self._missed = [], 0


def _differences(output: Output, row: Any, shares: Sequence[Any]) -> Iterator[str]:
    fields = _REQUEST_FIELDS if isinstance(output, RequestRecord) else _BOOK_FIELDS
    for name in fields:
        told, stored = getattr(output, name), getattr(row, name)
        if isinstance(told, str):
            told = stored_text(told, ERROR_TEXT_LIMIT) if name == "error" else stored_text(told)
        same = (
            isclose(told, stored) if isinstance(told, float) and isinstance(stored, float) else told == stored
        )
        if not same:
            yield f"{name}: the journal says {told!r}, the store {stored!r}"
    if isinstance(output, RequestRecord):
        said = {stored_text(s.gpu): (s.prefill_uj, s.decode_uj) for s in output.shares}
        kept = {s.gpu: (s.prefill_uj, s.decode_uj) for s in shares}
        if said != kept:
            yield f"shares (prefill, decode): the journal says {said}, the store {kept}"


def _untold(store: Snapshot, seen: _Seen, begins: LedgerState, report: Report) -> None:
    """What is stored of the journal's time and GPUs, and not told by it."""
    what = "the store has it, the journal does not tell it"
    from_us: dict[str, int] = dict(seen.first_us)
    for gpu, state in begins.gpus.items():
        from_us[gpu] = state.settled_us
    for gpu, t_us in from_us.items():
        for t0_us in store.book_starts(gpu, t_us):
            if not seen.has_book(gpu, t0_us):
                report.add("missing-in-journal", f"{gpu} at {t0_us}", what)
    for uid in store.uids_charged(from_us):
        if not seen.has_uid(uid):
            report.add("missing-in-journal", f"request {uid}", what)
    after_us = _told_until(begins.watermarks, seen)
    if after_us is not None and len(store.journals()) < 2:
        # Of a request without any share nothing else says whose journal has it.
        for uid in store.uids_without_share(after_us):
            if not seen.has_uid(uid):
                report.add("missing-in-journal", f"request {uid}", what)


def _told_until(watermarks: Mapping[int, int], seen: _Seen) -> int | None:
    """What ended later is told by this journal: where its first segment begins, or its first request."""
    return max(watermarks.values()) if watermarks else seen.first_request_us
