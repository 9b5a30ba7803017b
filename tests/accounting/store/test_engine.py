"""Opening a database: which URLs work, what the errors say, how SQLite is set up."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import text

from accounting.store.engine import StoreError, absent, connect, migrate, must_be_store, read_url
from tests.accounting.store.databases import Database


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("store.db", "not one"),
        ("mysql://me:hunter2@127.0.0.1/x", "mysql"),
        ("postgresql+asyncpg://me:hunter2@127.0.0.1/x", "asyncpg"),
        ("postgresql://me:hunter2@127.0.0.1:port/x", "not one"),
        ("sqlite://", "needs a file"),
        ("sqlite:///:memory:", "needs a file"),
    ],
)
def test_a_url_that_cannot_be_used_is_explained_without_its_password(url: str, says: str) -> None:
    with pytest.raises(StoreError, match=says) as caught:
        connect(url)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg"])
def test_postgresql_is_spoken_with_psycopg(scheme: str) -> None:
    assert connect(f"{scheme}://me@127.0.0.1/x").driver == "psycopg"


def test_the_directory_of_an_sqlite_file_is_made(tmp_path: Path) -> None:
    engine = connect(f"sqlite:///{tmp_path}/a/b/store.db")
    with engine.connect() as connection:
        assert connection.execute(text("SELECT 1")).scalar_one() == 1
    assert (tmp_path / "a" / "b" / "store.db").exists()
    engine.dispose()


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="file/data"):
        connect(f"sqlite:///{tmp_path}/file/data/store.db")


def test_sqlite_keeps_a_write_ahead_log_and_checks_foreign_keys(tmp_path: Path) -> None:
    engine = connect(f"sqlite:///{tmp_path}/store.db")
    with engine.connect() as connection:
        names = ("journal_mode", "synchronous", "busy_timeout", "foreign_keys")
        found = [connection.exec_driver_sql(f"PRAGMA {name}").scalar_one() for name in names]
    assert found == ["wal", 1, 5_000, 1]
    engine.dispose()


def test_a_database_with_nothing_of_ours_in_it_is_no_store(empty_database: Database) -> None:
    with pytest.raises(StoreError, match="there is no store at ") as caught:
        must_be_store(empty_database.engine)
    assert ":***@" in str(caught.value) or empty_database.admin is None
    migrate(empty_database.engine)
    must_be_store(empty_database.engine)


def test_a_url_is_read_without_making_anything(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/new/store.db"
    assert absent(url) == read_url(url).database == f"{tmp_path}/new/store.db"
    assert list(tmp_path.iterdir()) == []
    connect(url).connect().close()
    assert absent(url) is None
    assert absent("postgresql://me@127.0.0.1/x") is None
