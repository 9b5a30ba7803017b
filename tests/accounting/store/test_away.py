"""What waits while the database is away goes to the disk, and comes into the tables in order."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from sqlalchemy import delete, func, select, update

from accounting.records import Output
from accounting.store import outbox
from accounting.store.engine import StoreAway, StoreError, connect, migrate
from accounting.store.queries import RequestFilter, StoreReader
from accounting.store.rollups import UsageReader
from accounting.store.schema import JournalProgress, StoredBook, StoredRequest, StoredShare, UsageSum
from accounting.store.writer import StoreWriter
from tests.accounting.store.databases import Database
from tests.accounting.store.examples import book, correction, record
from tests.accounting.store.test_writer import SOON_S, wait_for

MakeWriter = Callable[..., StoreWriter]


@pytest.fixture
def make(database: Database, tmp_path: Path) -> Iterator[MakeWriter]:
    """Makes writers that may use the disk, and closes them."""
    made: list[StoreWriter] = []

    def make_one(**options: object) -> StoreWriter:
        options = {"directory": tmp_path / "unstored", **options}
        made.append(StoreWriter(database.engine, "journal-1", **options))  # type: ignore[arg-type]
        return made[-1]

    yield make_one
    for writer in made:
        writer.close(timeout_s=0)


@pytest.fixture
def little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "MEMORY_OUTPUTS", 50)
    monkeypatch.setattr(outbox, "PAGE_OUTPUTS", 20)


def uids(database: Database) -> list[str]:
    page = StoreReader(database.engine).requests(RequestFilter(), 1000)
    return [found.uid for found in reversed(page.records)]


def pages(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "unstored").glob("*.page"))


@pytest.mark.usefixtures("little_memory")
def test_what_memory_has_no_room_for_goes_to_the_disk_and_is_stored_once_all_the_same(
    make: MakeWriter, database: Database, tmp_path: Path
) -> None:
    writer = make()
    with database.away():
        for number in range(400):
            writer.put([record(number), book(number)], segment=number // 100)
        writer.put([correction(7)], segment=4)
        wait_for(lambda: writer._outbox.in_memory <= 50)
        assert len(pages(tmp_path)) > 30
        assert writer.pending == 801
    assert writer.close(SOON_S)
    assert uids(database) == [f"uid-{n:06}" for n in range(400)]
    assert (writer.progress(), writer.pending, pages(tmp_path)) == (4, 0, [])
    corrected = StoreReader(database.engine).request("uid-000007")
    assert corrected is not None
    assert corrected.correction_uj == 1_500_000


@pytest.mark.usefixtures("little_memory")
def test_with_the_disk_full_as_well_memory_holds_everything(
    make: MakeWriter, database: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "unstored").write_text("not a directory, so nothing can be written here")
    writer = make()
    with database.away():
        for number in range(200):
            writer.put([record(number)], segment=1)
        wait_for(lambda: "no room on the disk" in caplog.text)
    assert writer.close(SOON_S)
    assert len(uids(database)) == 200


def test_pages_of_an_earlier_process_are_deleted_as_the_journal_makes_them_again(
    make: MakeWriter, tmp_path: Path
) -> None:
    (tmp_path / "unstored").mkdir()
    (tmp_path / "unstored" / "00000001.page").write_bytes(b"half a pa")
    make()
    assert pages(tmp_path) == []


def test_how_far_all_is_stored_is_noted_for_a_start_without_the_database(
    make: MakeWriter, database: Database
) -> None:
    first = make()
    first.put([record(1)], segment=3)
    first.put([record(2)], segment=6)
    assert first.close(SOON_S)
    with database.away():
        assert make(prepared=False).progress() == 6
        with pytest.raises(StoreAway):
            make(prepared=True).progress()


def test_a_database_that_is_away_is_told_from_one_that_cannot_be_used(
    database: Database, tmp_path: Path
) -> None:
    with database.away(), pytest.raises(StoreAway):
        migrate(database.engine)
    (tmp_path / "other.db").write_bytes(b"not a database" * 1_000)
    with pytest.raises(StoreError) as refused:
        migrate(connect(f"sqlite:///{tmp_path}/other.db"))
    assert not isinstance(refused.value, StoreAway)


class Journal:
    """Makes everything again from a segment on, as the real one does."""

    def __init__(self, told: Sequence[tuple[int, list[Output]]]) -> None:
        self.told, self.asked = told, list[int | None]()

    def again(self, segment: int | None) -> Iterator[tuple[int, list[Output]]]:
        self.asked.append(segment)
        return iter([(number, outputs) for number, outputs in self.told if number >= (segment or 0)])


TOLD: list[tuple[int, list[Output]]] = [
    (n // 10, [record(n), book(n), *([correction(n)] if n % 3 == 0 else [])]) for n in range(40)
]


def lose_what_came_after(database: Database, number: int) -> None:
    """Bring the database back to what it was before this record came: as an old copy would be."""
    last_us = record(number).finished_us
    gone = select(StoredRequest.uid).where(StoredRequest.finished_us >= last_us)
    kept = StoreReader(database.engine).requests(RequestFilter(finished_before_us=last_us), 1000).records
    books = [book(n) for n in range(number)]
    assert len(kept) == number
    outputs = sum(2 + (n % 3 == 0) for n in range(number))
    with database.engine.begin() as connection:
        connection.execute(delete(StoredShare).where(StoredShare.uid.in_(gone)))
        connection.execute(delete(StoredRequest))
        connection.execute(delete(StoredBook))
        connection.execute(delete(UsageSum))
        connection.execute(update(JournalProgress).values(segment=(number - 1) // 10, outputs=0))
    again = StoreWriter(database.engine, "journal-1")
    corrections = [c for _, told in TOLD[:number] for c in told[2:]]
    again.put([*(record(n) for n in range(number)), *books, *corrections], segment=(number - 1) // 10)
    assert again.close(SOON_S)
    with database.engine.begin() as connection:
        connection.execute(update(JournalProgress).values(outputs=outputs))


def test_what_a_database_came_back_without_is_made_again_from_the_journal(
    make: MakeWriter, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, logger="accounting.store.writer")
    journal = Journal(TOLD)
    writer = make(again=journal.again)
    for segment, outputs in TOLD:
        writer.put(outputs, segment)
    assert writer.flush(SOON_S)
    whole = UsageReader(database.engine).usage(0, 2 * 10**15, "hour", ["model"])
    lose_what_came_after(database, 25)
    with database.away():
        writer.put([record(100)], segment=4)
        wait_for(lambda: writer.last_error)
    assert writer.flush(SOON_S)
    assert journal.asked == [2]
    assert uids(database) == [f"uid-{n:06}" for n in (*range(40), 100)]
    with database.engine.connect() as connection:
        assert connection.execute(select(func.count()).select_from(StoredBook)).scalar_one() == 40
    (row,) = UsageReader(database.engine).usage(0, 2 * 10**15, "hour", ["model"])
    assert row.usage.requests == whole[0].usage.requests + 1
    assert row.usage.energy_uj == (whole[0].usage.energy_uj or 0) + (record(100).energy_uj or 0)
    assert "made again from the journal" in caplog.text


def test_a_database_that_is_another_one_at_once_gets_the_rest_too(
    make: MakeWriter, database: Database
) -> None:
    """As a pool does it that finds its connections broken and makes new ones: no write fails."""
    journal = Journal(TOLD)
    writer = make(again=journal.again)
    for segment, outputs in TOLD:
        writer.put(outputs, segment)
    assert writer.flush(SOON_S)
    lose_what_came_after(database, 25)
    writer.put([record(100)], segment=4)
    assert writer.flush(SOON_S)
    assert uids(database) == [f"uid-{n:06}" for n in (*range(40), 100)]
    assert writer.last_error is None


def test_an_interruption_that_loses_nothing_makes_nothing_again(make: MakeWriter, database: Database) -> None:
    journal = Journal(TOLD)
    writer = make(again=journal.again)
    for number in range(3):
        writer.put([record(number)], segment=number)
        assert writer.flush(SOON_S)
        with database.away():
            writer.put([record(number + 10)], segment=number)
            wait_for(lambda: writer.last_error)
        assert writer.flush(SOON_S)
    assert journal.asked == []
    assert len(uids(database)) == 6
