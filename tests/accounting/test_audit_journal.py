"""An audit compares the store with the journal, record by record."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from accounting.audit import audit
from accounting.audit.report import EXAMPLES
from accounting.journal import JournalError, segment_paths
from accounting.store.engine import StoreError, connect
from tests.accounting.audited import (
    REQUEST,
    SHARE,
    Tamper,
    audited,
    data_dir,
    filled,
    kinds,
    sound_data,
    tamper,
)
from tests.accounting.ledger.story import us

__all__ = ["data_dir", "sound_data", "tamper"]


def test_an_interval_that_is_gone_is_missing(data_dir: Path, tamper: Tamper) -> None:
    tamper("DELETE FROM books WHERE rowid IN (20, 21)")
    assert audited(data_dir, journal=True).found["missing-in-store"] == 2


def test_what_the_journal_does_not_tell_is_found(data_dir: Path, tamper: Tamper) -> None:
    with closing(sqlite3.connect(data_dir / "joulegate.db")) as database:
        columns = [row[1] for row in database.execute("PRAGMA table_info(requests)")]
    copied = ", ".join("'forged'" if c == "uid" else c for c in columns)
    tamper(
        f"INSERT INTO requests SELECT {copied} FROM requests WHERE uid = {REQUEST}",
        f"INSERT INTO request_shares SELECT 'forged', gpu, 0, 0 FROM request_shares WHERE uid = {REQUEST}",
        "UPDATE requests SET energy_uj = 0, prefill_uj = 0, decode_uj = 0 WHERE uid = 'forged'",
        "INSERT INTO books SELECT gpu, t1_us, t1_us + 500000, 0, NULL, 0, 0, 0, 0, 0, 'none', 1 FROM books "
        "WHERE gpu = 'GPU-a' ORDER BY t0_us DESC LIMIT 1",
    )
    assert kinds(audited(data_dir)) == set()
    report = audited(data_dir, journal=True)
    assert kinds(report) == {"missing-in-journal"}
    assert {f.where for f in report.findings} == {"request forged", f"GPU-a at {us(32.5)}"}


def test_a_forged_request_without_shares_is_found(data_dir: Path, tamper: Tamper) -> None:
    with closing(sqlite3.connect(data_dir / "joulegate.db")) as database:
        columns = [row[1] for row in database.execute("PRAGMA table_info(requests)")]
    changed = {"uid": "'forged'", "backend": "NULL"}
    changed |= dict.fromkeys(("energy_uj", "prefill_uj", "decode_uj"), "NULL")
    copied = ", ".join(changed.get(c, c) for c in columns)
    tamper(f"INSERT INTO requests SELECT {copied} FROM requests WHERE uid = {REQUEST}")
    report = audited(data_dir, journal=True)
    assert [f.where for f in report.findings] == ["request forged"]
    assert kinds(report) == {"missing-in-journal"}


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        (f"UPDATE requests SET tenant = 'else' WHERE uid = {REQUEST}", "tenant: the journal says None"),
        (f"UPDATE requests SET quality = 0.5 WHERE uid = {REQUEST}", "quality: "),
        (f"UPDATE requests SET completion_tokens = 1 WHERE uid = {REQUEST}", "completion_tokens: "),
        ("UPDATE books SET method = 'nvml-power' WHERE rowid = 20", "method: "),
        (
            "UPDATE books SET simulated = 0 WHERE rowid = 20",
            "simulated: the journal says True, the store False",
        ),
    ],
)
def test_fields_that_differ_are_named(data_dir: Path, tamper: Tamper, statement: str, says: str) -> None:
    tamper(statement)
    assert audited(data_dir).clean
    report = audited(data_dir, journal=True)
    assert kinds(report) == {"differs"}
    assert says in report.findings[0].what


def test_shares_that_differ_are_told(data_dir: Path, tamper: Tamper) -> None:
    tamper(SHARE)
    report = audited(data_dir, journal=True)
    assert [f.what.split(" ")[0] for f in report.findings if f.kind == "differs"] == ["shares"]


def test_what_the_store_has_not_taken_yet_is_no_finding(tmp_path: Path) -> None:
    report = audited(filled(tmp_path / "data", segments=5), journal=True)
    assert "missing-in-store" not in kinds(report)
    assert "missing-in-journal" not in kinds(report)
    assert report.journal is not None
    assert report.journal.not_stored_yet > 20


def test_a_store_that_was_emptied_is_found(data_dir: Path, tamper: Tamper) -> None:
    tables = ("books", "correction_shares", "corrections", "request_shares", "requests")
    tamper(*(f"DELETE FROM {table}" for table in tables))
    assert audited(data_dir).clean
    report = audited(data_dir, journal=True)
    assert report.found["missing-in-store"] == 25 + 9 + 130
    assert len(report.findings) == EXAMPLES


def test_a_journal_whose_old_segments_were_dropped_is_compared_from_there_on(
    data_dir: Path, tamper: Tamper
) -> None:
    for path in segment_paths(data_dir / "journal")[:4]:
        path.unlink()
    report = audited(data_dir, journal=True)
    assert report.findings == []
    assert report.journal is not None
    assert 0 < report.journal.requests < 25
    tamper("DELETE FROM books WHERE rowid = (SELECT max(rowid) - 10 FROM books)")
    assert audited(data_dir, journal=True).found["missing-in-store"] == 1


def test_a_segment_that_is_lost_in_the_middle_is_found(data_dir: Path) -> None:
    segment_paths(data_dir / "journal")[4].unlink()
    assert "missing-in-journal" in kinds(audited(data_dir, journal=True))


def test_a_journal_that_is_none_cannot_be_audited(data_dir: Path) -> None:
    segment_paths(data_dir / "journal")[0].write_text("my notes\n")
    with pytest.raises(JournalError, match="is not a journal segment"):
        audited(data_dir, journal=True)


def test_a_database_without_tables_cannot_be_audited(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot read the store"):
        audited(tmp_path)


def test_progress_is_told(data_dir: Path) -> None:
    told: dict[str, int] = {}
    engine = connect(f"sqlite:///{data_dir}/joulegate.db")
    audit(engine, data_dir / "journal", lambda what, rows, of: told.update({what: told.get(what, 0) + rows}))
    engine.dispose()
    assert told == {"requests": 25, "books": 130, "journal": 25 + 9 + 130}
