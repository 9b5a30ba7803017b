"""Inserts rows by the thousand: tuples handed to the driver, one statement compiled once.

SQLAlchemy makes the statement; what it would do for each row (a dictionary, its keys, its types) is left out,
which is most of what a row costs. PostgreSQL gets all rows in one statement, each column as an array: a
statement for each row costs it twice as much.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Dialect, bindparam, case, cast, func, select
from sqlalchemy.dialects import postgresql, sqlite

from accounting.store.schema import Base

Values = tuple[Any, ...]
_Insert = postgresql.Insert | sqlite.Insert


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
        if name == "postgresql":
            columns = tuple(map(list, zip(*rows, strict=True)))
            return connection.exec_driver_sql(self._sql[name], columns).rowcount
        return connection.exec_driver_sql(self._sql[name], list(rows)).rowcount

    def _compiled(self, dialect: str) -> str:
        if dialect == "sqlite":
            speaks: Dialect = sqlite.pysqlite.dialect(paramstyle="qmark")
            insert = self._settled(sqlite.insert(self._table))
            return str(insert.compile(dialect=speaks, column_keys=list(self.names)))
        speaks = postgresql.psycopg.dialect(paramstyle="format")  # type: ignore[no-untyped-call]
        columns = self._table.__table__.columns
        arrays = (bindparam(column.name, type_=postgresql.ARRAY(column.type)) for column in columns)
        typed = [
            cast(array, postgresql.ARRAY(column.type)) for array, column in zip(arrays, columns, strict=True)
        ]
        rows = func.unnest(*typed).table_valued(*(f"c{n}" for n in range(len(typed)))).render_derived()
        given = postgresql.insert(self._table).from_select(list(self.names), select(rows))
        return str(self._settled(given).compile(dialect=speaks))

    def _settled(self, insert: _Insert) -> _Insert:
        """What becomes of a row whose key is there."""
        return insert.on_conflict_do_nothing()


class Adds(Inserts):
    """A row whose key is there is added to that row, column by column.

    Of the columns in `earliest` and `latest` the lower or the higher value stays.
    """

    def __init__(self, table: type[Base], *, earliest: str | None = None, latest: str | None = None) -> None:
        super().__init__(table)
        self._earliest, self._latest = earliest, latest

    def _settled(self, insert: _Insert) -> _Insert:
        table = self._table.__table__
        keys = [column.name for column in table.primary_key]
        sums: dict[str, ColumnElement[Any]] = {}
        for name in self.names:
            old, new = table.c[name], insert.excluded[name]
            if name == self._earliest:
                sums[name] = case((new < old, new), else_=old)
            elif name == self._latest:
                sums[name] = case((new > old, new), else_=old)
            elif name not in keys:
                sums[name] = old + new
        return insert.on_conflict_do_update(index_elements=keys, set_=sums)
