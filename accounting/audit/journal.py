"""The journal replayed and compared with the store, output by output.

The store takes what the ledger concludes in order, so what is missing behind all that is stored is not there
yet: the service still runs, or was killed. What is missing before is a finding.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from itertools import islice
from math import isclose
from pathlib import Path
from typing import Any

from accounting.audit.report import EXAMPLES, Finding, JournalSums, Report
from accounting.final import WAIT_US
from accounting.journal import segment_paths
from accounting.ledger.state import LedgerState
from accounting.records import (
    BackendFacts,
    Booked,
    BookEntry,
    Correction,
    GpuShare,
    RequestRecord,
    boundary_of,
    corrected,
)
from accounting.replay import HOSTS, Replay, owed_uj
from accounting.store.audit_queries import Snapshot
from accounting.store.schema import stored_text
from accounting.store.statements import BOOK_FIELDS, CORRECTION_FIELDS, REQUEST_FIELDS, values_of

BATCH = 500
"""Outputs compared at a time."""

UNTOLD = "the store has it, the journal does not tell it"


def audit_journal(store: Snapshot, directory: Path, report: Report, advance: Callable[[int], None]) -> None:
    """Compare the journal in `directory` with the store. Raises JournalError, OSError."""
    journal = Replay(directory)
    report.journal = sums = JournalSums(segments=len(segment_paths(directory)))
    with closing(_Seen()) as seen:
        comparison = _Comparison(store, report, journal.begins)
        # Facts are derived from the same intervals and hold no joule of their own.
        outputs = (output for output in journal.outputs() if not isinstance(output, BackendFacts))
        while batch := list(islice(outputs, BATCH)):
            seen.put(batch)
            kept = [output for output in batch if not _deleted(output, report.deleted_before_us)]
            sums.deleted += len(batch) - len(kept)
            comparison.compare(kept)
            sums.requests += sum(isinstance(output, RequestRecord) for output in batch)
            sums.corrections += sum(isinstance(output, Correction) for output in batch)
            advance(len(batch))
        sums.intervals = seen.intervals
        comparison.end(known=_name(directory) in store.journals())
        _untold(store, seen, journal.begins, report)
        if journal.whole:
            _check_sums(seen, journal, report)


def _deleted(output: Booked, before_us: Mapping[str, int]) -> bool:
    """Whether it is older than all that is kept. Of a correction only its request could say."""
    if isinstance(output, Correction):
        return False
    return (
        output.t0_us < before_us["books"]
        if isinstance(output, BookEntry)
        else (output.finished_us < before_us["requests"])
    )


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
        self.owed_uj: Counter[str] = Counter()
        """By GPU, and HOSTS: what books gave to requests, without what records and corrections gave them."""

    def put(self, outputs: Sequence[Booked]) -> None:
        for output in outputs:
            if isinstance(output, BookEntry):
                self.intervals += 1
                self._file.execute("INSERT OR IGNORE INTO books VALUES (?, ?)", (output.gpu, output.t0_us))
                self.first_us.setdefault(output.gpu, output.t0_us)
                device = HOSTS if boundary_of(output.gpu) == "host" else output.gpu
                self.owed_uj[device] += output.requests_uj
                continue
            if isinstance(output, RequestRecord):
                self._file.execute("INSERT OR IGNORE INTO uids VALUES (?)", (stored_text(output.uid),))
                first = self.first_request_us
                self.first_request_us = min(output.started_us, output.started_us if first is None else first)
                self.owed_uj[HOSTS] -= output.host_uj or 0
            for share in output.shares:
                self.owed_uj[share.gpu] -= share.prefill_uj + share.decode_uj

    def has_uid(self, uid: str) -> bool:
        return self._file.execute("SELECT 1 FROM uids WHERE uid = ?", (uid,)).fetchone() is not None

    def has_book(self, gpu: str, t0_us: int) -> bool:
        query = "SELECT 1 FROM books WHERE gpu = ? AND t0_us = ?"
        return self._file.execute(query, (gpu, t0_us)).fetchone() is not None

    def close(self) -> None:
        self._file.close()


class _Comparison:
    """Compares outputs with what is stored; holds back what is missing until something behind it is there.

    A request's row has its correction in it as soon as that is stored: such a row waits for the journal to
    tell the correction too.
    """

    def __init__(self, store: Snapshot, report: Report, begins: LedgerState) -> None:
        self._store, self._report = store, report
        self._sure_us = (
            report.deleted_before_us["requests"] + WAIT_US
        )  # corrections of requests that are kept
        self._missing: list[Finding] = []
        self._missed = 0
        self._found = False
        self._waiting: dict[str, tuple[RequestRecord, Any, Sequence[Any]]] = {}
        """By uid: record, row and shares of those whose correction only the store has told."""
        told_before = (request.told for request in begins.open.values() if request.told.recorded is not None)
        self._owing = {told.started.uid for told in told_before}
        """Uids of those whose record was told before the journal begins, their correction not."""

    def compare(self, batch: Sequence[Booked]) -> None:
        uids = [o.uid for o in batch if isinstance(o, RequestRecord)]
        requests = self._store.requests_by_uid(uids)
        uids += [o.uid for o in batch if isinstance(o, Correction)]
        corrections = self._store.corrections_by_uid(uids)
        starts: dict[str, list[int]] = {}
        for output in batch:
            if isinstance(output, BookEntry):
                starts.setdefault(output.gpu, []).append(output.t0_us)
        books = {gpu: self._store.books_by_start(gpu, t0s) for gpu, t0s in starts.items()}
        for output in batch:
            if isinstance(output, RequestRecord):
                where, key = f"request {output.uid}", stored_text(output.uid)
                row, shares = requests.get(key, (None, ()))
                if row is not None and key in corrections:
                    self._waiting[output.uid] = output, row, shares
                    self._there()
                    continue
            elif isinstance(output, Correction):
                where = f"correction of request {output.uid}"
                row, shares = corrections.get(stored_text(output.uid), (None, ()))
                self._owing.discard(output.uid)
                self._now_corrected(output)
            else:
                where, shares = f"{output.gpu} at {output.t0_us}", ()
                row = books[output.gpu].get(output.t0_us)
            if row is None and isinstance(output, Correction) and output.corrected_us < self._sure_us:
                continue
            if row is None:
                self._miss(where)
            else:
                self._there()
                self._differ(where, output, row, shares)

    def _now_corrected(self, by: Correction) -> None:
        if (waiting := self._waiting.pop(by.uid, None)) is not None:
            record, row, shares = waiting
            self._differ(f"request {by.uid}", corrected(record, by), row, shares)

    def _there(self) -> None:
        self._tell_missing()
        self._found = True

    def _differ(self, where: str, output: Booked, row: Any, shares: Sequence[Any]) -> None:
        for what in _differences(output, row, shares):
            self._report.add("differs", where, what)

    def end(self, *, known: bool) -> None:
        """`known`: something of this journal was stored once."""
        owing = iter(self._owing)
        while uids := list(islice(owing, BATCH)):
            self._untold(self._store.corrections_by_uid(uids))
        self._untold(self._waiting)
        if known and not self._found:
            self._tell_missing()
        elif self._report.journal is not None:
            self._report.journal.not_stored_yet = self._missed

    def _untold(self, uids: Iterable[str]) -> None:
        for uid in uids:
            self._report.add("missing-in-journal", f"correction of request {uid}", UNTOLD)

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


def _differences(output: Booked, row: Any, shares: Sequence[Any]) -> Iterator[str]:
    for name, told in zip(_fields(output), values_of(output), strict=True):
        stored = getattr(row, name)
        same = (
            isclose(told, stored) if isinstance(told, float) and isinstance(stored, float) else told == stored
        )
        if not same:
            yield f"{name}: the journal says {told!r}, the store {stored!r}"
    if not isinstance(output, BookEntry):
        said, kept = _by_gpu(output.shares), _by_gpu(shares)
        if said != kept:
            yield f"shares (prefill, decode): the journal says {said}, the store {kept}"


def _fields(output: Booked) -> Sequence[str]:
    if isinstance(output, RequestRecord):
        return REQUEST_FIELDS
    return CORRECTION_FIELDS if isinstance(output, Correction) else BOOK_FIELDS


def _by_gpu(shares: Sequence[GpuShare | Any]) -> dict[str, tuple[int, int]]:
    return {stored_text(s.gpu): (s.prefill_uj, s.decode_uj) for s in shares}


def _check_sums(seen: _Seen, journal: Replay, report: Report) -> None:
    """What the books of the journal gave to requests is what these have, or are still to get."""
    before, after = Counter(owed_uj(journal.begins)), Counter(owed_uj(journal.ledger.state))
    for gpu in sorted({*seen.owed_uj, *before, *after}):
        left_uj = before[gpu] + seen.owed_uj[gpu] - after[gpu]
        if left_uj:
            more = "more" if left_uj > 0 else "less"
            what = f"the books gave requests {abs(left_uj)} uJ {more} than they have or are still to get"
            report.add("gpu-sum", f"{gpu} in the journal", what)


def _untold(store: Snapshot, seen: _Seen, begins: LedgerState, report: Report) -> None:
    """What is stored of the journal's time and GPUs, and not told by it."""
    from_us: dict[str, int] = dict(seen.first_us)
    from_us |= {gpu: state.settled_us for gpu, state in begins.gpus.items()}
    from_us |= {host: state.settled_us for host, state in begins.hosts.items()}
    for gpu, t_us in from_us.items():
        for t0_us in store.book_starts(gpu, t_us):
            if not seen.has_book(gpu, t0_us):
                report.add("missing-in-journal", f"{gpu} at {t0_us}", UNTOLD)
    for uid in store.uids_charged(from_us):
        if not seen.has_uid(uid):
            report.add("missing-in-journal", f"request {uid}", UNTOLD)
    after_us = _told_until(begins.watermarks, seen)
    if after_us is not None and len(store.journals()) < 2:
        # Of a request without any share nothing else says whose journal has it.
        for uid in store.uids_without_share(after_us):
            if not seen.has_uid(uid):
                report.add("missing-in-journal", f"request {uid}", UNTOLD)


def _told_until(watermarks: Mapping[int, int], seen: _Seen) -> int | None:
    """What ended later is told by this journal: where its first segment begins, or its first request."""
    return max(watermarks.values()) if watermarks else seen.first_request_us
