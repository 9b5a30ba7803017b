"""Partitions by day on PostgreSQL: made ahead, dropped when they are old.

Books lie by the time they begin at, requests and all that hangs on them by their uid, which begins with the
time of their start: a request is found by its uid in one partition. What has no partition (rows from before
there were any, a service that was down for a week) lies in the default one, `TABLE_rest`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime

from sqlalchemy import Connection, ForeignKeyConstraint, text

from accounting.records import uid_at
from accounting.store.sums import DAY_US

BY_UID = ("requests", "request_shares", "corrections", "correction_shares")
"""In the order of their making; what hangs on others comes later."""

AHEAD_DAYS = 7
_NAME = re.compile(r"(requests|request_shares|corrections|correction_shares|books)_(rest|(\d{8}))")


def is_partition(table: str) -> bool:
    return _NAME.fullmatch(table) is not None


def is_compared(item: object, name: str | None, kind: str, *_: object) -> bool:
    """Whether Alembic compares a thing with the models: partitions, and keys that point to them, are not."""
    if isinstance(item, ForeignKeyConstraint):
        return not any(is_partition(key.target_fullname.split(".")[-2]) for key in item.elements)
    return kind != "table" or not is_partition(name or "")


def make_ahead(connection: Connection, now_us: int) -> list[str]:
    """Make those of today and the days to come that are missing; their names. Nothing on SQLite.

    A day of which the default partition has rows already gets none: its rows stay there.
    """
    if connection.dialect.name != "postgresql":
        return []
    there = set(_partitions(connection))
    made = []
    for day_us in range(now_us // DAY_US * DAY_US, now_us + AHEAD_DAYS * DAY_US, DAY_US):
        for table in (*BY_UID, "books"):
            name = f"{table}_{_day(day_us)}"
            column, low, high = _bounds(table, day_us)
            if name in there or _rest_has(connection, table, column, low, high):
                continue
            connection.execute(
                text(f"CREATE TABLE {name} PARTITION OF {table} FOR VALUES FROM ({low}) TO ({high})")
            )
            made.append(name)
    return made


def old(connection: Connection, what: str, before_us: int) -> Iterator[int]:
    """Days whose partitions of `what` (requests, books) hold nothing that is not older than `before_us`."""
    if connection.dialect.name != "postgresql":
        return
    for name in _partitions(connection):
        table, _, day = name.rpartition("_")
        if table != what or not day.isdigit():
            continue
        day_us = int(datetime.strptime(day, "%Y%m%d").replace(tzinfo=UTC).timestamp()) * 1_000_000
        if day_us + DAY_US > before_us:
            continue
        if what == "requests":  # one may start on a day and end long after it
            newest_us = connection.execute(text(f"SELECT max(finished_us) FROM {name}")).scalar_one()
            if newest_us is not None and newest_us >= before_us:
                continue
        yield day_us


def drop(connection: Connection, what: str, day_us: int) -> None:
    """Drop a day's partitions of books, or of requests and all that hangs on them."""
    there = set(_partitions(connection))
    for table in ("books",) if what == "books" else reversed(BY_UID):
        name = f"{table}_{_day(day_us)}"
        if name in there:
            # Foreign keys that point to it go with the detaching only.
            connection.execute(text(f"ALTER TABLE {table} DETACH PARTITION {name}"))
            connection.execute(text(f"DROP TABLE {name}"))


def _partitions(connection: Connection) -> list[str]:
    query = "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid ORDER BY c.relname"
    return [name for name in connection.scalars(text(query)) if is_partition(name)]


def _bounds(table: str, day_us: int) -> tuple[str, str, str]:
    if table == "books":
        return "t0_us", str(day_us), str(day_us + DAY_US)
    return "uid", f"'{uid_at(day_us)}'", f"'{uid_at(day_us + DAY_US)}'"


def _rest_has(connection: Connection, table: str, column: str, low: str, high: str) -> bool:
    query = f"SELECT EXISTS (SELECT FROM {table}_rest WHERE {column} >= {low} AND {column} < {high})"
    return bool(connection.execute(text(query)).scalar_one())


def _day(day_us: int) -> str:
    return datetime.fromtimestamp(day_us // 1_000_000, UTC).strftime("%Y%m%d")
