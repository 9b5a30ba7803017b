from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from accounting.store.queries import StoreReader
from accounting.store.writer import StoreWriter
from tests.accounting.store.databases import Database, database, empty_database, postgres

__all__ = ["database", "empty_database", "postgres"]

MakeWriter = Callable[..., StoreWriter]


@pytest.fixture
def make_writer(database: Database) -> Iterator[MakeWriter]:
    """Makes writers on the test's database and closes them at the end."""
    made: list[StoreWriter] = []

    def make(journal_id: str = "journal-1") -> StoreWriter:
        made.append(StoreWriter(database.engine, journal_id))
        return made[-1]

    yield make
    for writer in made:
        writer.close(timeout_s=0)


@pytest.fixture
def writer(make_writer: MakeWriter) -> StoreWriter:
    return make_writer()


@pytest.fixture
def reader(database: Database) -> StoreReader:
    return StoreReader(database.engine)
