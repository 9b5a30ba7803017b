"""Inserts rows by the thousand: tuples handed to the driver, one statement compiled once.

SQLAlchemy makes the statement; what it would do for each row (a dictionary, its keys, its types) is left out,
which is most of what a row costs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Dialect, Insert
from sqlalchemy.dialects import postgresql, sqlite

from accounting.store.schema import Base

Values = tuple[Any, ...]


class Inserts:
    """`run` puts rows into a table: a tuple of each row's values, in the order of `names`.

    A row whose key is there already is left out.
    """

    def __init__(self, table: type[Base]) -> None:
        self._table = table
        self.names = tuple(column.name for column in table.__table__.columns)
        self._sql: dict[str, str] = {}

    def run(self, connection: Connection, rows: Sequence[Values]) -> int:
        """How many of the rows were new."""
        if not rows:
            return 0
        name = connection.dialect.name
        if name not in self._sql:
            self._sql[name] = self._compiled(name)
        return connection.exec_driver_sql(self._sql[name], list(rows)).rowcount

    def _compiled(self, dialect: str) -> str:
        statement: Insert
        speaks: Dialect
        if dialect == "postgresql":
            statement = postgresql.insert(self._table).on_conflict_do_nothing()
            speaks = postgresql.psycopg.dialect(paramstyle="format")  # type: ignore[no-untyped-call]
        else:
            statement = sqlite.insert(self._table).on_conflict_do_nothing()
            speaks = sqlite.pysqlite.dialect(paramstyle="qmark")
        return str(statement.compile(dialect=speaks, column_keys=list(self.names)))
