"""A fresh database for each test: an SQLite file, and one of a PostgreSQL server that the tests start."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.engine import make_url
from sqlalchemy.pool import ConnectionPoolEntry

from accounting.store.engine import connect, migrate
from benchmarks.servers.postgres import PostgresServer

KINDS = ("sqlite", "postgresql")


@dataclass
class Database:
    """A database that can be taken away and brought back. `admin` is None for SQLite."""

    url: str
    engine: Engine
    admin: Engine | None

    @contextmanager
    def away(self) -> Iterator[None]:
        """Nobody can reach the database inside, and the connections that were open are gone."""
        self.engine.dispose()
        name = make_url(self.url).database
        assert name is not None
        if self.admin is None:
            directory = Path(name).parent
            hidden = directory.with_name("hidden")
            directory.rename(hidden)
            yield
            hidden.rename(directory)
            return
        with self.admin.connect() as connection:
            connection.execute(text(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false"))
            connection.execute(
                text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name"),
                {"name": name},
            )
            yield
            connection.execute(text(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true"))


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A server that is only for tests, of which each makes databases of its own."""
    with PostgresServer() as server:
        yield server


@contextmanager
def new_database(server: PostgresServer) -> Iterator[Database]:
    """An empty database of the server, dropped at the end."""
    root = make_url(server.url()).set(drivername="postgresql+psycopg")
    admin = create_engine(root, isolation_level="AUTOCOMMIT")
    name = f"joulegate_test_{uuid.uuid4().hex}"
    with admin.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    url = server.url(name)
    engine = connect(url)
    yield Database(url, engine, admin)
    engine.dispose()
    with admin.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    admin.dispose()


@pytest.fixture(params=KINDS)
def empty_database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """A database without any table."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path}/data/store.db"
        engine = connect(url)
        event.listen(engine, "connect", give_up_soon)
        yield Database(url, engine, None)
        engine.dispose()
        return
    with new_database(request.getfixturevalue("postgres")) as made:
        yield made


@pytest.fixture
def database(empty_database: Database) -> Database:
    """A database with all tables and nothing in them."""
    migrate(empty_database.engine)
    return empty_database


def give_up_soon(connection: object, _: ConnectionPoolEntry) -> None:
    """Let SQLite wait 20 ms for a lock, not seconds: the tests hold locks on purpose."""
    connection.execute("PRAGMA busy_timeout = 20")  # type: ignore[attr-defined]
