"""What is older than it has to be kept is deleted; the sums stay, and nothing is added to them twice."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import msgspec
import pytest
from sqlalchemy import func, inspect, select, text, update

from accounting.records import Output, RequestRecord, uid_at
from accounting.store import partitions, retention
from accounting.store.engine import DetailDeleted, migrate, writing
from accounting.store.queries import StoreReader
from accounting.store.retention import Keeper, deleted_before_us, keep
from accounting.store.rollups import UsageReader
from accounting.store.schema import (
    Base,
    JournalProgress,
    StoredBook,
    StoredCorrection,
    StoredRequest,
    StoredShare,
)
from accounting.store.sums import DAY_US, HOUR_US
from accounting.store.writer import StoreWriter
from benchmarks.servers.postgres import PostgresServer
from tests.accounting.store.databases import Database, new_database
from tests.accounting.store.examples import T0_US, book, correction, record
from tests.accounting.store.test_writer import SOON_S, wait_for
from tests.migrations.test_migrations import alembic

DAY0_US = T0_US // DAY_US * DAY_US
NOW_US = DAY0_US + 20 * DAY_US
EVER = (0, DAY0_US + 100 * DAY_US)


def on_day(day: int, number: int) -> RequestRecord:
    """A request of this day, with a uid as the service makes them."""
    started_us = DAY0_US + day * DAY_US + number * 60_000_000
    uid = f"{uid_at(started_us)}{number:020x}"
    return record(number, uid=uid, started_us=started_us, finished_us=started_us + 1_000_000)


def days(first: int, last: int) -> list[Output]:
    """A request, corrected, and two entries of each day."""
    told: list[Output] = []
    for day in range(first, last):
        of = on_day(day, day)
        entries = [
            book(n, t0_us=of.started_us + n * 500_000, t1_us=of.started_us + (n + 1) * 500_000)
            for n in (0, 1)
        ]
        told += [of, *entries, correction(0, uid=of.uid, corrected_us=of.finished_us + 1)]
    return told


def store(database: Database, outputs: Sequence[Output], segment: int = 1) -> None:
    writer = StoreWriter(database.engine, "journal-1")
    writer.put(outputs, segment)
    writer.put([], segment + 1)  # nothing before can come again
    assert writer.close(SOON_S)


def told_until(database: Database, t_us: int) -> None:
    """The journal is stored up to here, just now."""
    with database.engine.begin() as connection:
        now_us = time.time_ns() // 1000
        connection.execute(update(JournalProgress).values(needed_us=t_us, seen_us=now_us))


def counts(database: Database, *tables: type[Base]) -> list[int]:
    with database.engine.connect() as connection:
        return [connection.execute(select(func.count()).select_from(t)).scalar_one() for t in tables]


ALL = (StoredRequest, StoredShare, StoredCorrection, StoredBook)


@pytest.fixture
def partitioned(database: Database) -> Database:
    """With partitions of the days of the tests, where there are any."""
    make_partitions(database)
    return database


def make_partitions(database: Database) -> None:
    with database.engine.begin() as connection:
        for day in range(0, 20, 7):
            partitions.make_ahead(connection, DAY0_US + day * DAY_US)


@pytest.mark.parametrize("ahead", [True, False])
def test_old_rows_go_with_all_that_hangs_on_them_and_the_sums_stay(
    ahead: bool, database: Database, request: pytest.FixtureRequest
) -> None:
    if ahead:
        request.getfixturevalue("partitioned")
    store(database, days(0, 20))
    told_until(database, NOW_US)
    usage, books = UsageReader(database.engine).usage(*EVER, "day"), StoreReader(database.engine).books()
    assert counts(database, *ALL) == [20, 40, 20, 40]
    gone = keep(database.engine, {"requests": 5, "books": 15}, NOW_US)
    assert counts(database, *ALL) == [5, 10, 5, 30]
    assert set(gone) == {"requests", "books"}
    assert min(gone.values()) > 0
    assert UsageReader(database.engine).usage(*EVER, "day") == usage
    assert StoreReader(database.engine).books() == books
    assert keep(database.engine, {"requests": 5, "books": 15}, NOW_US) == {}


def test_nobody_reads_that_something_was_deleted_that_was_never_there(database: Database) -> None:
    store(database, days(18, 20))
    told_until(database, NOW_US)
    assert keep(database.engine, {"requests": 5, "books": 5, "facts": 5}, NOW_US) == {}
    with database.engine.connect() as connection:
        assert [deleted_before_us(connection, what) for what in ("requests", "books", "facts")] == [0, 0, 0]
    books = StoreReader(database.engine).books(bucket_us=60_000_000)
    assert books.total is not None
    assert books.total.balanced


def test_what_is_kept_for_ever_is_not_deleted(database: Database) -> None:
    store(database, days(0, 3))
    told_until(database, NOW_US)
    assert keep(database.engine, {"requests": None, "books": None}, NOW_US) == {}
    assert counts(database, *ALL) == [3, 6, 3, 6]


def test_what_a_journal_may_tell_again_is_not_deleted(database: Database) -> None:
    store(database, days(0, 10))
    told_until(database, DAY0_US + 6 * DAY_US)
    keep(database.engine, {"requests": 1, "books": 1}, NOW_US)
    assert counts(database, StoredRequest, StoredBook) == [4, 8]
    with database.engine.connect() as connection:
        assert deleted_before_us(connection, "books") == DAY0_US + 6 * DAY_US - retention.MARGIN_US


def test_a_journal_of_which_nothing_is_known_yet_keeps_everything(database: Database) -> None:
    writer = StoreWriter(database.engine, "journal-1")
    writer.put(days(0, 10), segment=1)
    assert writer.close(SOON_S)
    keep(database.engine, {"requests": 1, "books": 1}, NOW_US)
    assert counts(database, StoredRequest, StoredBook) == [10, 20]


def test_a_journal_that_was_silent_for_a_month_keeps_nobody_from_deleting_and_adds_nothing_twice(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    store(database, days(0, 10))
    with database.engine.begin() as connection:
        connection.execute(update(JournalProgress).values(seen_us=0))
    usage = UsageReader(database.engine).usage(*EVER)
    books = StoreReader(database.engine).books()
    keep(database.engine, {"requests": 15, "books": 15}, NOW_US)
    assert counts(database, *ALL) == [5, 10, 5, 10]
    store(database, days(0, 10))
    assert counts(database, *ALL) == [5, 10, 5, 10]
    assert UsageReader(database.engine).usage(*EVER) == usage
    assert StoreReader(database.engine).books() == books
    assert "left out 20 outputs" in caplog.text


def test_half_hours_of_deleted_books_and_minutes_of_deleted_requests_are_refused(database: Database) -> None:
    store(database, days(0, 10))
    told_until(database, NOW_US)
    keep(database.engine, {"requests": 15, "books": 15}, NOW_US)
    usage, reader = UsageReader(database.engine), StoreReader(database.engine)
    old_us, kept_us = DAY0_US + DAY_US, DAY0_US + 7 * DAY_US
    assert len(reader.books(old_us, old_us + HOUR_US).rows) == 1
    for asked in (
        (old_us + 1, old_us + 2 * HOUR_US, None, None),
        (old_us, old_us + HOUR_US, None, HOUR_US // 2),
    ):
        with pytest.raises(DetailDeleted, match="whole hours"):
            reader.books(*asked)
    with pytest.raises(DetailDeleted, match="whole hours"):
        usage.usage(old_us, old_us + HOUR_US, "minute")
    assert len(usage.usage(kept_us, kept_us + HOUR_US, "minute")) == 1
    assert len(reader.books(kept_us + 1, kept_us + HOUR_US).rows) == 1


def test_books_of_any_window_are_those_of_its_entries(database: Database) -> None:
    entries = [
        book(
            n,
            t0_us=DAY0_US + n * HOUR_US // 3,
            t1_us=DAY0_US + n * HOUR_US // 3 + 500_000,
            gpu=f"GPU-{n % 2}",
        )
        for n in range(40)
    ]
    store(database, entries)
    reader = StoreReader(database.engine)
    for first in (0, 1, 2, 3, 4, 9):
        for last in (10, 11, 12, 13, 30):
            window = (DAY0_US + first * HOUR_US // 3, DAY0_US + last * HOUR_US // 3)
            total = reader.books(*window).total
            assert total is not None
            assert (total.intervals, total.idle_uj) == (last - first, 25 * (last - first))
            hours = reader.books(*window, bucket_us=HOUR_US).rows
            assert sum(row.intervals for row in hours) == last - first
            assert all(row.bucket_us is not None and row.bucket_us % HOUR_US == 0 for row in hours)


def test_the_service_deletes_by_itself(database: Database) -> None:
    now_us = time.time_ns() // 1000
    store(
        database,
        [book(0, t0_us=now_us - 9 * DAY_US, t1_us=now_us - 9 * DAY_US + 500_000), book(1, t0_us=now_us)],
    )
    told_until(database, now_us)
    keeper = Keeper(database.engine, requests_days=None, books_days=7)
    wait_for(lambda: counts(database, StoredBook) == [1])
    keeper.close()


# What only PostgreSQL has.


@pytest.fixture
def on_postgres(postgres: PostgresServer) -> Iterator[Database]:
    with new_database(postgres) as made:
        migrate(made.engine)
        make_partitions(made)
        yield made


def rows_in(database: Database, table: str) -> int:
    with database.engine.connect() as connection:
        found: int = connection.execute(text(f"SELECT count(*) FROM ONLY {table}")).scalar_one()
        return found


def test_rows_lie_in_the_partition_of_their_day(on_postgres: Database) -> None:
    store(on_postgres, [*days(3, 4), record(1)])
    name = partitions._day(DAY0_US + 3 * DAY_US)
    tables = (*partitions.BY_UID, "books")
    assert [rows_in(on_postgres, f"{table}_{name}") for table in tables] == [1, 2, 1, 2, 2]
    assert [rows_in(on_postgres, f"{table}_rest") for table in tables] == [1, 2, 0, 0, 0]


def test_a_request_that_ended_later_keeps_the_partition_of_its_start(on_postgres: Database) -> None:
    told = days(0, 20)
    long = on_day(3, 77)
    long.finished_us = DAY0_US + 18 * DAY_US
    store(on_postgres, [*told, long])
    told_until(on_postgres, NOW_US)
    keep(on_postgres.engine, {"requests": 5, "books": 5}, NOW_US)
    found = inspect(on_postgres.engine).get_table_names()
    assert f"requests_{partitions._day(DAY0_US + 3 * DAY_US)}" in found
    assert f"requests_{partitions._day(DAY0_US + 4 * DAY_US)}" not in found
    assert StoreReader(on_postgres.engine).request(long.uid) is not None
    assert counts(on_postgres, StoredRequest) == [6]


def test_days_come_back_into_one_table_and_again_into_partitions(on_postgres: Database) -> None:
    store(on_postgres, days(0, 20))
    before = StoreReader(on_postgres.engine).request(on_day(3, 3).uid)
    assert before is not None
    with writing(on_postgres.engine) as connection, connection.begin():
        alembic(connection, "downgrade", "0007")
    assert not any(map(partitions.is_partition, inspect(on_postgres.engine).get_table_names()))
    assert counts(on_postgres, *ALL) == [20, 40, 20, 40]
    migrate(on_postgres.engine)
    assert counts(on_postgres, *ALL) == [20, 40, 20, 40]
    assert StoreReader(on_postgres.engine).request(before.uid) == msgspec.structs.replace(
        before, scheduled_us=None
    )
    store(on_postgres, days(18, 23))
    assert counts(on_postgres, *ALL) == [23, 46, 23, 46]
