"""Opening the database and bringing its schema up to date."""

from __future__ import annotations

import importlib.resources
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection, Engine, create_engine, event, func, inspect, select
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

BUSY_TIMEOUT_MS = 5_000
"""How long SQLite waits for another process's lock before it gives up with "database is locked"."""

MIGRATION_LOCK = 0x6A6F756C6567
"""Key of PostgreSQL's advisory lock that keeps two services from migrating at once ("jouleg" in ASCII)."""

POOL_TIMEOUT_S = 5.0
"""How long a question waits for a connection while all of them are in use, as with a slow database."""

_POSTGRES_ARGUMENTS: dict[str, Any] = {
    "connect_timeout": 10,  # seconds
    "tcp_user_timeout": 30_000,  # ms: a server that went silent counts as gone, a slow query does not
    "application_name": "joulegate",
}


class StoreError(Exception):
    """The store could not do what was asked. The message says what and why to a human, without passwords."""


class StoreAway(StoreError):
    """The database cannot be reached, is locked or full: the same may work later."""


class CannotAnswer(StoreError):
    """The question cannot be answered as it was put; the message says how to put it."""


class DetailDeleted(CannotAnswer):
    """What was asked for was deleted for its age; the sums by hour are there."""


def reason(error: Exception) -> str:
    """One line of `error`: the driver's own words where there are some, without statement and parameters."""
    cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    return next((line for line in str(cause).splitlines() if line.strip()), type(cause).__name__).strip()


@contextmanager
def store_errors(engine: Engine, doing: str) -> Iterator[None]:
    """Turn a database error into a `StoreError` that says what was being done, where, and why it failed."""
    try:
        yield
    except (SQLAlchemyError, CommandError) as error:
        where = engine.url.render_as_string(hide_password=True)
        kind = StoreAway if isinstance(error, OperationalError | PoolTimeout) else StoreError
        raise kind(f"{doing} ({where}): {reason(error)}") from error


def read_url(url: str) -> URL:
    """`sqlite:///PATH` or `postgresql://USER:PASSWORD@HOST/NAME`, with the driver to use; opens nothing.

    Raises StoreError for a URL that cannot be used.
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):  # the message may repeat the URL and with it a password
        raise StoreError(
            "the store's URL is not one: write sqlite:///PATH or postgresql://USER:PASSWORD@HOST/NAME"
        ) from None
    if parsed.drivername in ("sqlite", "sqlite+pysqlite"):
        place = parsed.database
        if not place or place == ":memory:" or place.startswith("file:"):
            raise StoreError(
                "the store needs a file: write sqlite:///PATH (four slashes for an absolute path)"
            )
        return parsed
    if parsed.drivername in ("postgresql", "postgres", "postgresql+psycopg"):
        if find_spec("psycopg") is None:
            raise StoreError("PostgreSQL needs its driver: pip install 'joulegate[postgres]'")
        return parsed.set(drivername="postgresql+psycopg")
    raise StoreError(f"the store cannot be {parsed.drivername!r}: use sqlite or postgresql")


def absent(url: str) -> str | None:
    """The SQLite file that is not there, of the store at `url`. Raises StoreError as `read_url`."""
    parsed = read_url(url)
    sqlite = parsed.get_backend_name() == "sqlite"
    return parsed.database if sqlite and not Path(parsed.database or "").is_file() else None


def connect(url: str, *, must_exist: bool = False) -> Engine:
    """An engine for a URL that `read_url` knows.

    Nothing is opened yet, so a database that is away is no error here; the directory of an SQLite file is
    made. Raises StoreError for a URL that cannot be used, and with `must_exist` for an SQLite file that is
    not there: to open it would make it.
    """
    parsed = read_url(url)
    if must_exist and (path := absent(url)) is not None:
        raise StoreError(f"there is no store at {path}")
    return _sqlite(parsed) if parsed.get_backend_name() == "sqlite" else _postgres(parsed)


def must_be_store(engine: Engine) -> None:
    """Raises StoreError where the database has nothing of joulegate's in it, StoreAway where it is away."""
    with store_errors(engine, "cannot look into the store"):
        if not inspect(engine).has_table("alembic_version"):
            sqlite = engine.dialect.name == "sqlite"
            where = engine.url.database if sqlite else engine.url.render_as_string(hide_password=True)
            raise StoreError(f"there is no store at {where}")


def _sqlite(url: URL) -> Engine:
    assert url.database is not None
    directory = Path(url.database).parent
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"cannot make the store's directory {directory}: {error.strerror}") from error
    engine = create_engine(url)

    # The driver would begin no transaction before DDL, so that a migration could stop half-way. The two
    # listeners take the transactions over from it, as SQLAlchemy's SQLite page describes.
    @event.listens_for(engine, "connect")
    def prepare(connection: sqlite3.Connection, _: object) -> None:
        connection.isolation_level = None
        connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
        _use_write_ahead_log(connection)
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA foreign_keys = ON")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql(
            f"BEGIN {connection.get_execution_options().get('sqlite_begin', 'DEFERRED')}"
        )

    return engine


def _use_write_ahead_log(connection: sqlite3.Connection) -> None:
    """Switch the file to WAL, for good. SQLite says "busy" at once while others switch it: wait here."""
    deadline_s = time.monotonic() + BUSY_TIMEOUT_MS / 1000
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline_s:
                raise
            time.sleep(0.01)


def _postgres(url: URL) -> Engine:
    try:
        arguments = {key: value for key, value in _POSTGRES_ARGUMENTS.items() if key not in url.query}
        return create_engine(url, pool_pre_ping=True, pool_timeout=POOL_TIMEOUT_S, connect_args=arguments)
    except (ModuleNotFoundError, NoSuchModuleError) as error:
        raise StoreError("PostgreSQL needs its driver: pip install 'joulegate[postgres]'") from error


def writing(engine: Engine) -> Connection:
    """A connection whose transactions will write: SQLite takes its lock at once, to not fail half-way."""
    return engine.connect().execution_options(sqlite_begin="IMMEDIATE")


def alembic_config() -> Config:
    """Alembic's configuration for the migrations that are installed with this package."""
    config = Config()
    # Config is an INI file at heart: a percent sign in the path has to be doubled.
    config.set_main_option("script_location", str(importlib.resources.files("migrations")).replace("%", "%%"))
    return config


def migrate(engine: Engine) -> None:
    """Bring the schema to the newest revision, in one transaction: wholly or not at all.

    Services that start together wait for each other. Raises StoreAway where the database cannot be reached,
    StoreError where it is no database or was made by a newer joulegate.
    """
    config = alembic_config()
    with store_errors(engine, "cannot prepare the store"), writing(engine) as connection, connection.begin():
        if connection.dialect.name == "postgresql":
            connection.execute(select(func.pg_advisory_xact_lock(MIGRATION_LOCK)))
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
