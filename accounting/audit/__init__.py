"""Proves the store: each interval's books, each request's sum, each GPU's, and all against the journal.

- `report.py`    what is found, and the rules
- `requests.py`  each record and each correction for itself
- `books.py`     the books of a GPU beside its requests
- `journal.py`   the journal replayed and compared

Nothing is changed, and nothing but one page of rows and the requests in flight at a time is in memory.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sqlalchemy import Engine

from accounting.audit.books import audit_books
from accounting.audit.journal import audit_journal
from accounting.audit.report import JOURNAL_KINDS, KINDS, Report
from accounting.audit.requests import audit_corrections, audit_requests, audit_usage
from accounting.journal import segment_paths
from accounting.store.audit_queries import snapshot
from accounting.store.schema import StoredBook, StoredRequest

__all__ = ["KINDS", "Progress", "Report", "audit"]

Progress = Callable[[str, int, int | None], None]
"""Told how it goes: what is read, how many rows more, of how many (None: not known)."""


def audit(engine: Engine, journal: Path | None = None, progress: Progress | None = None) -> Report:
    """Audit the store behind `engine`, against the journal in a directory where one is given.

    Raises StoreError when the store cannot be read, JournalError or OSError when the journal cannot.
    """
    tell = progress if progress is not None else _nobody
    with_journal = journal is not None and bool(segment_paths(journal))
    kinds = [kind for kind in KINDS if with_journal or kind not in JOURNAL_KINDS]
    report = Report(found=dict.fromkeys(kinds, 0))
    # The journal is read after the moment of the snapshot, so it knows all that the store does.
    with snapshot(engine) as store:
        report.deleted_before_us = store.deleted_before_us()
        requests, intervals = store.count(StoredRequest), store.count(StoredBook)
        audit_requests(store, report, lambda rows: tell("requests", rows, requests))
        audit_corrections(store, report)
        audit_usage(store, report)
        audit_books(store, report, lambda rows: tell("books", rows, intervals))
        if journal is not None and with_journal:
            audit_journal(store, journal, report, lambda rows: tell("journal", rows, None))
    return report


def _nobody(what: str, rows: int, of: int | None) -> None:
    """Nobody asks how it goes."""
