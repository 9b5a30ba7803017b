"""The writer stores everything exactly once, whatever the database does meanwhile."""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from sqlalchemy import Connection, Engine, event, func, select

from accounting.records import GpuShare, Output
from accounting.store.engine import StoreError, connect, migrate
from accounting.store.queries import RequestFilter, StoreReader
from accounting.store.schema import StoredBook, StoredShare, stored_text
from accounting.store.writer import StoreWriter
from tests.accounting.store.databases import Database, give_up_soon
from tests.accounting.store.examples import book, record

SOON_S = 20.0
"""Longest wait for what must happen; only a failing test waits that long."""


def wait_for(condition: Callable[[], object]) -> None:
    deadline_s = time.monotonic() + SOON_S
    while not condition():
        assert time.monotonic() < deadline_s, "the condition never came true"
        time.sleep(0.005)


def stored_uids(reader: StoreReader) -> list[str]:
    return [r.uid for r in reader.requests(RequestFilter(), 1000).records]


def count_books(database: Database) -> int:
    with database.engine.connect() as connection:
        return connection.execute(select(func.count()).select_from(StoredBook)).scalar_one()


def test_a_record_comes_back_as_it_went_in(writer: StoreWriter, reader: StoreReader) -> None:
    given = record(1)
    writer.put([given], segment=0)
    assert writer.flush(SOON_S)
    assert reader.request(given.uid) == given


def test_unknown_numbers_come_back_as_none(writer: StoreWriter, reader: StoreReader) -> None:
    given = record(
        1,
        backend=None,
        model=None,
        tenant=None,
        http_status=None,
        first_token_us=None,
        prompt_tokens=None,
        completion_tokens=None,
        energy_uj=None,
        prefill_uj=None,
        decode_uj=None,
        uncertainty_uj=None,
        meter="none",
        shares=[],
    )
    writer.put([given], segment=0)
    assert writer.flush(SOON_S)
    assert reader.request(given.uid) == given


def test_numbers_up_to_64_bits_are_kept_exactly(writer: StoreWriter, reader: StoreReader) -> None:
    top = 2**63 - 1
    shares = [GpuShare(gpu="GPU-a", prefill_uj=top - 1, decode_uj=1)]
    given = record(1, energy_uj=top, prefill_uj=top - 1, decode_uj=1, completion_tokens=top, shares=shares)
    writer.put(
        [given, book(0, measured_uj=top, requests_uj=top, idle_uj=0, unobserved_uj=0, unmeasured_uj=0)], 0
    )
    assert writer.flush(SOON_S)
    assert reader.request(given.uid) == given
    (row,) = reader.books().rows
    assert (row.measured_uj, row.requests_uj, row.balanced) == (top, top, True)


def test_outputs_put_twice_are_stored_once(
    make_writer: Callable[..., StoreWriter], reader: StoreReader, database: Database
) -> None:
    outputs: list[Output] = [record(1), book(0), record(2), book(1)]
    first = make_writer()
    first.put(outputs, segment=0)
    first.put(outputs, segment=0)
    assert first.close(SOON_S)
    second = make_writer()
    second.put([*outputs, record(3)], segment=0)
    assert second.flush(SOON_S)
    assert stored_uids(reader) == ["uid-000003", "uid-000002", "uid-000001"]
    assert count_books(database) == 2


def test_the_first_version_of_a_record_stands_with_its_shares(
    make_writer: Callable[..., StoreWriter], reader: StoreReader, database: Database
) -> None:
    given = record(1)
    other = record(1, energy_uj=5, shares=[GpuShare(gpu="GPU-z", prefill_uj=2, decode_uj=3)])
    for version in (given, other):
        writer = make_writer()
        writer.put([version], segment=0)
        assert writer.close(SOON_S)
    assert reader.request(given.uid) == given
    with database.engine.connect() as connection:
        assert connection.execute(select(func.count()).select_from(StoredShare)).scalar_one() == 2


def test_progress_is_none_before_anything_is_stored(writer: StoreWriter) -> None:
    assert writer.progress() is None


def test_progress_moves_with_the_outputs_and_never_back(writer: StoreWriter) -> None:
    for segment, expected in ((4, 4), (7, 7), (5, 7)):
        writer.put([record(segment)], segment)
        assert writer.flush(SOON_S)
        assert writer.progress() == expected


def test_progress_moves_without_outputs(writer: StoreWriter) -> None:
    writer.put([], segment=3)
    assert writer.flush(SOON_S)
    assert writer.progress() == 3


def test_each_journal_has_its_own_progress(make_writer: Callable[..., StoreWriter]) -> None:
    one, other = make_writer("journal-1"), make_writer("journal-2")
    one.put([record(1)], segment=8)
    other.put([record(2)], segment=2)
    assert one.flush(SOON_S)
    assert other.flush(SOON_S)
    assert (one.progress(), other.progress()) == (8, 2)


def test_more_than_one_batch_is_stored_whole(writer: StoreWriter, database: Database) -> None:
    writer.put([book(n) for n in range(5_000)], segment=1)
    writer.put([book(n) for n in range(5_000, 5_300)], segment=2)
    assert writer.flush(SOON_S)
    assert count_books(database) == 5_300
    assert (writer.pending, writer.progress()) == (0, 2)


def test_putting_from_many_threads_loses_nothing(writer: StoreWriter, reader: StoreReader) -> None:
    def put_some(start: int) -> None:
        for number in range(start, start + 50):
            writer.put([record(number)], segment=0)

    threads = [threading.Thread(target=put_some, args=(start,)) for start in (0, 50, 100, 150)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert writer.flush(SOON_S)
    assert stored_uids(reader) == [f"uid-{n:06}" for n in reversed(range(200))]


def test_while_the_database_is_away_all_is_kept_and_stored_once_afterwards(
    writer: StoreWriter, reader: StoreReader, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, logger="accounting.store.writer")
    writer.put([record(1)], segment=1)
    assert writer.flush(SOON_S)
    with database.away():
        for number in range(2, 12):
            writer.put([record(number), book(number)], segment=number)
        wait_for(lambda: writer.last_error)
        for _ in range(3):
            assert not writer.flush(timeout_s=0.05)
        assert writer.pending == 20
        with pytest.raises(StoreError, match="progress"):
            writer.progress()
    assert writer.flush(SOON_S)
    assert (writer.pending, writer.last_error, writer.progress()) == (0, None, 11)
    assert stored_uids(reader) == [f"uid-{n:06}" for n in reversed(range(1, 12))]
    assert count_books(database) == 10
    said = [r.getMessage() for r in caplog.records if r.name == "accounting.store.writer"]
    assert len(said) == 2
    assert "cannot write" in said[0]
    assert "writing again" in said[1]


def test_a_writer_that_starts_before_the_tables_exist_stores_once_they_do(empty_database: Database) -> None:
    writer = StoreWriter(empty_database.engine, "journal-1")
    writer.put([record(1)], segment=0)
    wait_for(lambda: writer.last_error)
    migrate(empty_database.engine)
    assert writer.close(SOON_S)
    assert stored_uids(StoreReader(empty_database.engine)) == ["uid-000001"]


def test_close_stores_what_is_left(make_writer: Callable[..., StoreWriter], reader: StoreReader) -> None:
    writer = make_writer()
    writer.put([record(n) for n in range(300)], segment=0)
    assert writer.close(SOON_S)
    assert len(stored_uids(reader)) == 300
    with pytest.raises(RuntimeError, match="closed"):
        writer.put([record(301)], segment=0)


def test_close_gives_up_when_the_database_stays_away(
    make_writer: Callable[..., StoreWriter], database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    writer = make_writer()
    with database.away():
        writer.put([record(1), record(2)], segment=0)
        wait_for(lambda: writer.last_error)
        assert not writer.close(timeout_s=0.1)
    assert writer.pending == 2
    assert "2 outputs unstored" in caplog.text


def test_a_row_that_no_database_can_take_is_named_and_does_not_hold_up_the_others(
    writer: StoreWriter, reader: StoreReader, caplog: pytest.LogCaptureFixture
) -> None:
    outputs = [record(n, completion_tokens=10**20 if n == 3 else 1) for n in range(8)]
    writer.put(outputs, segment=5)
    assert writer.flush(SOON_S)
    assert stored_uids(reader) == [f"uid-{n:06}" for n in (7, 6, 5, 4, 2, 1, 0)]
    assert (writer.pending, writer.last_error, writer.progress()) == (0, None, 5)
    (line,) = [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR]
    assert "uid-000003" in line


@pytest.mark.parametrize("name", ["a\0b", "half \ud83d", "long " * 5_000, "\u00e9\U0001f50b" * 3_000])
def test_any_text_a_client_can_send_is_stored_and_found_again(
    name: str, writer: StoreWriter, reader: StoreReader
) -> None:
    writer.put([record(1, model=name, tenant=name, request_id=name, backend=name, error=name)], segment=0)
    assert writer.flush(SOON_S)
    found = reader.request(name)
    assert found is not None
    assert found.model == stored_text(name)
    assert found.error is not None
    assert len(found.error) == min(len(stored_text(name, 10**9)), 4096)
    wanted = RequestFilter(model=name, tenant=name, backend=name)
    assert [r.uid for r in reader.requests(wanted, 10).records] == [found.uid]


# What only SQLite does.


@pytest.fixture
def sqlite_file(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@pytest.fixture
def sqlite_engine(sqlite_file: Path) -> Iterator[Engine]:
    engine = connect(f"sqlite:///{sqlite_file}")
    event.listen(engine, "connect", give_up_soon)
    migrate(engine)
    yield engine
    engine.dispose()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Another connection holds the file for itself inside."""
    with closing(sqlite3.connect(path, isolation_level=None)) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        yield
        holder.execute("ROLLBACK")


def test_while_another_connection_locks_the_file_all_is_kept(
    sqlite_engine: Engine, sqlite_file: Path
) -> None:
    writer, reader = StoreWriter(sqlite_engine, "journal-1"), StoreReader(sqlite_engine)
    with locked(sqlite_file):
        writer.put([record(1), book(1)], segment=1)
        wait_for(lambda: writer.last_error)
        writer.put([record(2)], segment=2)
        assert (writer.last_error, writer.pending) == ("database is locked", 3)
        assert stored_uids(reader) == []
    assert writer.close(SOON_S)
    assert stored_uids(reader) == ["uid-000002", "uid-000001"]
    assert (writer.last_error, writer.progress()) == (None, 2)


def test_while_the_disk_is_full_all_is_kept(sqlite_engine: Engine) -> None:
    most_pages = 40

    @event.listens_for(sqlite_engine, "begin")
    def fill_up(connection: Connection) -> None:
        connection.exec_driver_sql(f"PRAGMA max_page_count = {most_pages}")

    writer, reader = StoreWriter(sqlite_engine, "journal-1"), StoreReader(sqlite_engine)
    writer.put([record(n) for n in range(500)], segment=1)
    wait_for(lambda: writer.last_error)
    assert writer.last_error == "database or disk is full"
    assert (writer.pending, stored_uids(reader), writer.progress()) == (500, [], None)
    most_pages = 1_000_000
    assert writer.close(SOON_S)
    assert len(stored_uids(reader)) == 500
    assert writer.progress() == 1


def test_readers_do_not_wait_for_a_writer(sqlite_engine: Engine, sqlite_file: Path) -> None:
    with locked(sqlite_file):
        assert stored_uids(StoreReader(sqlite_engine)) == []
