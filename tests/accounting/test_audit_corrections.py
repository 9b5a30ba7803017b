"""An audit proves corrections, and finds those that were tampered with."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import ArrayLike, NDArray

from accounting.journal import Segment, segment_paths
from accounting.ledger.apportion import apportion
from tests.accounting.audited import Tamper, audited, data_dir, filled, kinds, sound_data, tamper
from tests.accounting.ledger.story import us

__all__ = ["data_dir", "sound_data", "tamper"]

CORRECTION = "(SELECT uid FROM corrections ORDER BY uid LIMIT 1)"
TAMPERED_CORRECTIONS = [
    (f"UPDATE corrections SET prefill_uj = prefill_uj + 1 WHERE uid = {CORRECTION}", "correction-sum"),
    (f"UPDATE correction_shares SET decode_uj = decode_uj - 1 WHERE uid = {CORRECTION}", "correction-sum"),
    (
        f"UPDATE correction_shares SET gpu = 'GPU-z' WHERE uid = {CORRECTION} AND gpu = 'GPU-a'",
        "correction-sum",
    ),
    (f"DELETE FROM correction_shares WHERE uid = {CORRECTION}", "correction-sum"),
    (f"DELETE FROM corrections WHERE uid = {CORRECTION}", "correction-orphan"),
    (f"DELETE FROM requests WHERE uid = {CORRECTION}", "correction-orphan"),
]


@pytest.mark.parametrize(("statement", "found"), TAMPERED_CORRECTIONS)
def test_a_correction_that_is_tampered_with_is_found(
    data_dir: Path, tamper: Tamper, statement: str, found: str
) -> None:
    tamper(statement)
    assert found in kinds(audited(data_dir))
    assert kinds(audited(data_dir, journal=True)) & {"differs", "missing-in-store"}


def test_a_correction_that_takes_more_than_there_was_is_found(data_dir: Path, tamper: Tamper) -> None:
    more = "decode_uj = decode_uj + 1000000000000"
    tamper(
        f"UPDATE corrections SET {more} WHERE uid = {CORRECTION}",
        f"UPDATE correction_shares SET {more} WHERE uid = {CORRECTION} AND gpu = 'GPU-a'",
    )
    report = audited(data_dir)
    assert kinds(report) == {"correction-sum"}
    assert "would be negative" in report.findings[0].what


@pytest.mark.parametrize("column", ["corrected_us", "dynamic_uj", "uncertainty_uj", "first_token_us"])
def test_a_correction_that_differs_from_the_journals_is_found(
    data_dir: Path, tamper: Tamper, column: str
) -> None:
    tamper(f"UPDATE corrections SET {column} = 7 WHERE uid = {CORRECTION}")
    assert audited(data_dir).clean
    report = audited(data_dir, journal=True)
    assert report.found["differs"] == 1
    (finding,) = report.findings
    assert finding.where.startswith("correction of request uid-")
    assert finding.what.startswith(f"{column}: the journal says ")


def test_a_correction_that_was_taken_back_is_missing_and_its_request_differs(
    data_dir: Path, tamper: Tamper
) -> None:
    """All of it, so that every sum is right again but those of the GPUs."""
    taken = (
        "SELECT {0} FROM correction_shares c WHERE c.uid = request_shares.uid AND c.gpu = request_shares.gpu"
    )
    back = [f"{n} = {n} - ({taken.format(n)})" for n in ("prefill_uj", "decode_uj")]
    mine = [
        f"{n} = {n} - (SELECT {n} FROM corrections c WHERE c.uid = requests.uid)"
        for n in ("prefill_uj", "decode_uj")
    ]
    tamper(
        f"UPDATE request_shares SET {', '.join(back)} WHERE uid = {CORRECTION}",
        f"UPDATE requests SET {', '.join(mine)} WHERE uid = {CORRECTION}",
        f"UPDATE requests SET energy_uj = prefill_uj + decode_uj WHERE uid = {CORRECTION}",
        "PRAGMA foreign_keys = ON",
        f"DELETE FROM corrections WHERE uid = {CORRECTION}",
    )
    assert kinds(audited(data_dir)) == {"gpu-sum"}
    report = audited(data_dir, journal=True)
    assert kinds(report) >= {"gpu-sum", "missing-in-store"}
    (missing,) = [f.where for f in report.findings if f.kind == "missing-in-store"]
    assert missing.startswith("correction of request uid-")


def test_a_correction_that_the_journal_does_not_tell_is_found(data_dir: Path, tamper: Tamper) -> None:
    other = "(SELECT uid FROM requests WHERE uid NOT IN (SELECT uid FROM corrections) LIMIT 1)"
    tamper(
        f"INSERT INTO corrections SELECT {other}, {us(20)}, 0, 0, 0, uncertainty_uj, first_token_us, "
        "scheduled_us FROM requests LIMIT 1"
    )
    assert audited(data_dir).clean
    report = audited(data_dir, journal=True)
    assert kinds(report) == {"missing-in-journal"}
    assert report.findings[0].where.startswith("correction of request uid-")


def test_one_whose_request_was_told_before_the_journal_begins_is_compared(
    data_dir: Path, tamper: Tamper
) -> None:
    told = dropped_until(data_dir, corrected=True)
    assert audited(data_dir, journal=True).findings == []
    tamper(f"UPDATE corrections SET uncertainty_uj = 1 WHERE uid IN ({told})")
    assert audited(data_dir, journal=True).found["differs"] >= 1


def test_one_forged_of_a_request_told_before_the_journal_begins_is_found(
    data_dir: Path, tamper: Tamper
) -> None:
    told = dropped_until(data_dir, corrected=False)
    tamper(
        f"INSERT INTO corrections SELECT uid, {us(20)}, 0, 0, 0, uncertainty_uj, first_token_us, scheduled_us"
        f" FROM requests WHERE uid IN ({told}) AND uid NOT IN (SELECT uid FROM corrections) LIMIT 1"
    )
    report = audited(data_dir, journal=True)
    assert kinds(report) == {"missing-in-journal"}
    assert report.found["missing-in-journal"] == 1


def dropped_until(data_dir: Path, *, corrected: bool) -> str:
    """Drop the journal's segments before one that begins with a request whose record is out and which is (or
    is not) corrected later. The uids of all whose record is out there, for SQL."""
    with closing(sqlite3.connect(data_dir / "joulegate.db")) as database:
        later = {uid for (uid,) in database.execute("SELECT uid FROM corrections")}
    paths = segment_paths(data_dir / "journal")
    begins = next(n for n, path in enumerate(paths) if any((u in later) is corrected for u in recorded(path)))
    for path in paths[:begins]:
        path.unlink()
    return ", ".join(f"'{uid}'" for uid in recorded(paths[begins]))


def recorded(path: Path) -> list[str]:
    """Uids of requests whose record was out when this segment began, and might still be corrected."""
    told = [request.told for request in Segment(path).state.open.values()]
    return [one.started.uid for one in told if one.recorded is not None]


@pytest.mark.parametrize("segments", [4, 5, 6, 7])
def test_with_corrections_still_to_come_a_store_is_clean(tmp_path: Path, segments: int) -> None:
    """Stored up to any segment, and the journal ends there too: as after a crash."""
    data_dir = filled(tmp_path / "data", segments=segments)
    for path in segment_paths(data_dir / "journal")[segments:]:
        path.unlink()
    assert audited(data_dir, journal=True).findings == []
    assert audited(data_dir).findings == []


def test_a_ledger_whose_books_and_requests_do_not_agree_is_found(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lossy(total: int, parts_of: ArrayLike) -> NDArray[np.int64]:
        return apportion(total, parts_of) // 2 * 2

    monkeypatch.setattr("accounting.ledger.settle.apportion", lossy)
    report = audited(data_dir, journal=True)
    assert {f.where for f in report.findings if f.kind == "gpu-sum"} == {
        "GPU-a in the journal",
        "GPU-b in the journal",
    }
