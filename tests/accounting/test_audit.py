"""An audit finds nothing in a sound store, and everything that was tampered with."""

from __future__ import annotations

from pathlib import Path

import pytest

from accounting.audit import KINDS
from accounting.store.engine import connect, migrate
from accounting.store.writer import StoreWriter
from tests.accounting.audited import REQUEST, SHARE, Tamper, audited, data_dir, kinds, sound_data, tamper
from tests.accounting.ledger.story import T0_US, Gpu, Power, Story, us
from tests.accounting.store.examples import book, record

__all__ = ["data_dir", "sound_data", "tamper"]


def test_a_sound_store_is_clean(data_dir: Path) -> None:
    report = audited(data_dir, journal=True, sums=True)
    assert report.findings == []
    assert set(report.found) == set(KINDS)
    assert (report.requests, report.shares, report.gaps) == (25, 41, [])
    assert report.intervals == sum(gpu.intervals for gpu in report.gpus) == 130
    for gpu in report.gpus:
        assert gpu.shares_uj == gpu.requests_uj > 0
        assert gpu.measured_uj == gpu.requests_uj + gpu.idle_uj + gpu.unobserved_uj + gpu.unmeasured_uj
    assert report.journal is not None
    assert (report.journal.requests, report.journal.intervals, report.journal.not_stored_yet) == (25, 130, 0)


def test_an_empty_store_is_clean(tmp_path: Path) -> None:
    engine = connect(f"sqlite:///{tmp_path}/joulegate.db")
    migrate(engine)
    engine.dispose()
    assert audited(tmp_path).clean


TAMPERED = [
    ("UPDATE books SET idle_uj = idle_uj + 1 WHERE rowid = 20", {"book-unbalanced"}),
    ("UPDATE books SET measured_uj = measured_uj + 1 WHERE rowid = 20", {"book-unbalanced"}),
    (
        "UPDATE books SET idle_uj = -5, unobserved_uj = unobserved_uj + idle_uj + 5 WHERE rowid = 20",
        {"book-range"},
    ),
    ("UPDATE books SET covered_us = t1_us - t0_us + 1 WHERE rowid = 20", {"book-range"}),
    ("UPDATE books SET requests = -1 WHERE rowid = 3", {"book-range"}),
    ("UPDATE books SET t1_us = t1_us + 1 WHERE rowid = 20", {"book-overlap"}),
    ("UPDATE books SET t1_us = t0_us WHERE rowid = 3", {"book-range", "book-gap"}),
    ("UPDATE books SET t1_us = t1_us - 1 WHERE rowid = 3", {"book-range", "book-gap"}),
    ("DELETE FROM books WHERE gpu = 'GPU-a' AND requests = 0 AND rowid = 5", {"book-gap"}),
    (f"UPDATE requests SET energy_uj = energy_uj + 1 WHERE uid = {REQUEST}", {"request-sum"}),
    (f"UPDATE requests SET prefill_uj = NULL WHERE uid = {REQUEST}", {"request-sum"}),
    (f"UPDATE requests SET energy_uj = NULL WHERE uid = {REQUEST}", {"request-sum"}),
    (
        f"UPDATE requests SET energy_uj = energy_uj + 1, decode_uj = decode_uj + 1 WHERE uid = {REQUEST}",
        {"request-sum"},
    ),
    (f"UPDATE requests SET dynamic_uj = -1 WHERE uid = {REQUEST}", {"request-range"}),
    (f"UPDATE requests SET unmeasured_us = -1 WHERE uid = {REQUEST}", {"request-range"}),
    (f"UPDATE requests SET state = 'provisional' WHERE uid = {REQUEST}", {"request-state"}),
    (f"UPDATE requests SET status = 'fine' WHERE uid = {REQUEST}", {"request-state"}),
    (f"UPDATE requests SET meter = 'guess' WHERE uid = {REQUEST}", {"request-state"}),
]


@pytest.mark.parametrize(("statement", "found"), TAMPERED)
def test_what_is_tampered_with_is_found(
    data_dir: Path, tamper: Tamper, statement: str, found: set[str]
) -> None:
    tamper(statement)
    assert kinds(audited(data_dir)) == found
    # The journal knows better, whatever it was.
    assert kinds(audited(data_dir, journal=True)) & {"differs", "missing-in-store"}


def test_a_share_that_was_changed_is_found_in_its_request_and_on_its_gpu(
    data_dir: Path, tamper: Tamper
) -> None:
    tamper(SHARE)
    report = audited(data_dir)
    assert kinds(report) == {"request-sum", "gpu-sum"}
    (found,) = [f for f in report.findings if f.kind == "gpu-sum"]
    assert found.where.startswith("GPU-a ")
    assert found.what == "the books gave requests 7 uJ less than their shares sum to"


@pytest.mark.parametrize(("change", "more"), [(1, "less"), (-1, "more")])
def test_a_request_changed_in_all_its_sums_is_found_on_its_gpu(
    data_dir: Path, tamper: Tamper, change: int, more: str
) -> None:
    tamper(
        f"UPDATE requests SET energy_uj = energy_uj + {change}, decode_uj = decode_uj + {change} "
        f"WHERE uid = {REQUEST}",
        f"UPDATE request_shares SET decode_uj = decode_uj + {change} WHERE uid = {REQUEST} AND gpu = 'GPU-a'",
    )
    report = audited(data_dir)
    assert kinds(report) == {"gpu-sum"}
    assert f"1 uJ {more}" in report.findings[0].what


def test_a_request_that_is_gone_is_found_on_its_gpus_and_in_the_journal(
    data_dir: Path, tamper: Tamper
) -> None:
    tamper("PRAGMA foreign_keys = ON", f"DELETE FROM requests WHERE uid = {REQUEST}")
    assert kinds(audited(data_dir)) == {"gpu-sum"}
    report = audited(data_dir, journal=True)
    assert kinds(report) == {"gpu-sum", "missing-in-store"}
    assert report.found["missing-in-store"] == 1


def test_shares_without_their_request_are_found(data_dir: Path, tamper: Tamper) -> None:
    tamper(f"DELETE FROM requests WHERE uid = {REQUEST}")
    assert kinds(audited(data_dir)) == {"share-orphan", "gpu-sum"}


@pytest.mark.parametrize(
    ("table", "row", "found"),
    [("requests", f"uid = {REQUEST}", "request-duplicate"), ("books", "rowid = 20", "book-duplicate")],
)
def test_rows_that_are_there_twice_are_found(
    data_dir: Path, tamper: Tamper, table: str, row: str, found: str
) -> None:
    tamper(
        f"CREATE TABLE copy AS SELECT * FROM {table}",
        f"INSERT INTO copy SELECT * FROM {table} WHERE {row}",
        f"DROP TABLE {table}",
        f"ALTER TABLE copy RENAME TO {table}",
    )
    report = audited(data_dir)
    assert found in kinds(report)
    assert report.found[found] == 1


def test_a_request_with_time_outside_the_books_is_found(data_dir: Path, tamper: Tamper) -> None:
    tamper(f"UPDATE requests SET started_us = {T0_US - 1} WHERE uid = {REQUEST}")
    assert kinds(audited(data_dir)) == {"request-outside", "gpu-sum"}
    tamper(f"UPDATE requests SET started_us = {us(34)}, finished_us = {us(35)} WHERE uid = {REQUEST}")
    assert kinds(audited(data_dir)) == {"request-outside", "gpu-sum"}


def test_a_request_that_ends_before_it_starts_is_found(data_dir: Path, tamper: Tamper) -> None:
    tamper(f"UPDATE requests SET finished_us = started_us - 1 WHERE uid = {REQUEST}")
    assert "request-range" in kinds(audited(data_dir))


def test_a_gpu_without_any_books_is_found(data_dir: Path, tamper: Tamper) -> None:
    tamper("DELETE FROM books WHERE gpu = 'GPU-b'")
    report = audited(data_dir)
    assert kinds(report) == {"request-outside"}
    assert {f.what.rsplit(", ")[-1] for f in report.findings if f.kind == "request-outside"} == {
        "of which there are none"
    }


def test_energy_that_is_null_though_its_time_was_measured_is_found(data_dir: Path, tamper: Tamper) -> None:
    tamper(
        f"DELETE FROM request_shares WHERE uid = {REQUEST}",
        f"UPDATE requests SET energy_uj = NULL, prefill_uj = NULL, decode_uj = NULL WHERE uid = {REQUEST}",
    )
    assert kinds(audited(data_dir)) == {"request-null", "gpu-sum"}


def test_energy_that_is_null_as_its_time_was_not_measured_is_no_finding(tmp_path: Path) -> None:
    story = Story([Gpu("G", Power((-10, 100)), hidden=[(8, 40)])], {"main": ["G"]})
    for name, start in (("before", 2.0), ("dark", 20.0), ("after", 50.0)):
        story.request(name, start, start + 0.1, start + 1, tokens=20)
    story.run(60)
    assert story.records["dark"].energy_uj is None
    engine = connect(f"sqlite:///{tmp_path}/joulegate.db")
    migrate(engine)
    writer = StoreWriter(engine, "j")
    writer.put(story.outputs, 1)
    assert writer.close(30)
    engine.dispose()
    report = audited(tmp_path)
    assert report.findings == []
    assert report.gpus[0].not_covered_us > 10_000_000


def stored(data_dir: Path, *numbers: int, journals: int) -> None:
    """Entries of GPU-a, and so many journals."""
    engine = connect(f"sqlite:///{data_dir}/joulegate.db")
    migrate(engine)
    for i in range(journals):
        writer = StoreWriter(engine, f"journal-{i}")
        writer.put([book(n, requests=0, requests_uj=0, idle_uj=85) for n in numbers], 1)
        assert writer.close(30)
    engine.dispose()


@pytest.mark.parametrize(
    ("second", "journals", "judgement", "why"),
    [
        (100, 2, "service not running", "another journal was begun"),
        (3, 2, "suspicious", "it is shorter than any restart"),
        (100, 1, "suspicious", "one journal wrote all of this"),
    ],
)
def test_gaps_are_listed_and_judged(
    tmp_path: Path, second: int, journals: int, judgement: str, why: str
) -> None:
    stored(tmp_path, 0, 1, second, second + 1, journals=journals)
    report = audited(tmp_path)
    (gap,) = report.gaps
    assert (gap.gpu, gap.seconds, gap.judgement) == ("GPU-a", (second - 2) / 2, judgement)
    assert gap.why.startswith(why)
    assert kinds(report) == ({"book-gap"} if judgement == "suspicious" else set())


@pytest.mark.parametrize(
    "statement",
    [
        f"UPDATE requests SET completion_tokens = 1 + completion_tokens WHERE uid = {REQUEST}",
        f"DELETE FROM requests WHERE uid = {REQUEST}",
        "UPDATE usage_sums SET energy_uj = energy_uj + 1",
        "UPDATE usage_sums SET requests = requests + 1 WHERE width_us = 3600000000",
        "UPDATE book_sums SET idle_uj = idle_uj + 1",
        "UPDATE books SET idle_uj = idle_uj - 1, measured_uj = measured_uj - 1 WHERE rowid = 20",
        "DELETE FROM books WHERE gpu = 'GPU-b'",
    ],
)
def test_sums_that_are_not_those_of_the_rows_are_found(
    statement: str, data_dir: Path, tamper: Tamper
) -> None:
    tamper(statement)
    assert audited(data_dir, sums=True).found["sums"] > 0


@pytest.mark.parametrize("what", [("requests",), ("books",), ("requests", "books")])
@pytest.mark.parametrize("at_s", [8, 20, 31])
def test_what_was_deleted_for_its_age_is_no_finding(
    what: tuple[str, ...], at_s: int, data_dir: Path, tamper: Tamper
) -> None:
    """As retention does it, but not at whole hours, of which the story is too short."""
    before_us = T0_US + at_s * 1_000_000
    column = {"requests": "finished_us", "books": "t0_us"}
    for name in what:
        tamper(
            "PRAGMA foreign_keys = ON",
            f"DELETE FROM {name} WHERE {column[name]} < {before_us}",
            f"INSERT INTO deleted VALUES ('{name}', {before_us})",
        )
    report = audited(data_dir, journal=True)
    assert report.findings == []
    assert report.journal is not None
    assert report.journal.deleted > 0
    assert report.deleted_before_us == {name: before_us if name in what else 0 for name in column}


def test_what_is_missing_after_the_age_of_deletion_is_found_all_the_same(
    data_dir: Path, tamper: Tamper
) -> None:
    before_us = T0_US + 8_000_000
    tamper(
        f"DELETE FROM books WHERE t0_us < {before_us}",
        f"INSERT INTO deleted VALUES ('books', {before_us})",
        "DELETE FROM books WHERE rowid = 120",
    )
    assert kinds(audited(data_dir, journal=True)) >= {"missing-in-store", "book-gap"}


def test_a_gap_with_a_request_in_it_is_suspicious(tmp_path: Path) -> None:
    stored(tmp_path, 0, 1, 100, journals=2)
    engine = connect(f"sqlite:///{tmp_path}/joulegate.db")
    writer = StoreWriter(engine, "journal-0")
    writer.put([record(20)], 1)
    assert writer.close(30)
    engine.dispose()
    report = audited(tmp_path)
    assert report.gaps[0].why == "1 requests with energy of this GPU have time in it"
    assert {"book-gap", "request-outside"} <= kinds(report)


def test_a_gap_of_one_interval_with_requests_is_suspicious_for_them(data_dir: Path, tamper: Tamper) -> None:
    tamper("DELETE FROM books WHERE gpu = 'GPU-a' AND requests > 3 AND t0_us % 3000000 = 0")
    report = audited(data_dir)
    assert {"book-gap", "request-outside"} <= kinds(report)
    assert "requests with energy of this GPU have time in it" in report.gaps[0].why
