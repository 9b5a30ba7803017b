"""What has been spent with each key, by day: from the store's sums, and from what it does not have yet.

Outputs that a restart made again from the journal may be in the store already or not. Both questions are
asked in one transaction, so each output counts exactly once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, Engine, Row, func, select

from accounting.records import Correction, Output, RequestRecord
from accounting.store.engine import store_errors
from accounting.store.schema import StoredCorrection, StoredRequest, UsageKey, UsageSum
from accounting.store.sums import DAY_US

AT_ONCE = 500
"""Ids in one question."""


class Periods(NamedTuple):
    """The day of UTC that a time is in, counted from 1970, and the first day of its month."""

    day: int
    month: int


def periods_of(t_us: int) -> Periods:
    day = t_us // DAY_US
    return Periods(day, day + 1 - datetime.fromtimestamp(day * DAY_US / 1e6, UTC).day)


class Spent(NamedTuple):
    """Energy of requests that came with a key and finished on a day, in microjoules."""

    key: str
    day: int
    uj: int


def spent_since(engine: Engine, day: int, made_again: Sequence[Output]) -> list[Spent]:
    """What was spent with keys from this day on, in several parts. Raises StoreError."""
    sums = (
        select(UsageKey.api_key, UsageSum.bucket_us, func.sum(UsageSum.energy_uj))
        .join(UsageKey, UsageKey.key == UsageSum.key)
        .where(UsageSum.width_us == DAY_US, UsageSum.bucket_us >= day * DAY_US, UsageKey.api_key.is_not(None))
        .group_by(UsageKey.api_key, UsageSum.bucket_us)
    )
    with store_errors(engine, "cannot read what was spent"), engine.connect() as connection:
        if connection.dialect.name == "postgresql":
            connection = connection.execution_options(isolation_level="REPEATABLE READ")
        stored = [Spent(key, us // DAY_US, int(uj)) for key, us, uj in connection.execute(sums) if key]
        return [*stored, *(spent for spent in _missing(connection, made_again) if spent.day >= day)]


def _missing(connection: Connection, outputs: Sequence[Output]) -> Iterator[Spent]:
    """Of these what the store does not have."""
    records = {o.uid: o for o in outputs if isinstance(o, RequestRecord)}
    corrections = {o.uid: o for o in outputs if isinstance(o, Correction)}
    stored = _stored(connection, [*records, *(uid for uid in corrections if uid not in records)])
    for uid, record in records.items():
        if uid not in stored and record.api_key is not None:
            yield Spent(record.api_key, record.finished_us // DAY_US, record.energy_uj or 0)
    for uid, correction in corrections.items():
        of: Row[Any] | RequestRecord | None = stored.get(uid) or records.get(uid)
        known = uid in stored and stored[uid].corrected_us is not None
        key = of.api_key if of is not None else None
        if of is not None and key is not None and not known:
            yield Spent(key, of.finished_us // DAY_US, correction.energy_uj)


def _stored(connection: Connection, uids: Sequence[str]) -> dict[str, Row[Any]]:
    r = StoredRequest
    found: dict[str, Row[Any]] = {}
    query = select(r.uid, r.api_key, r.finished_us, StoredCorrection.corrected_us).outerjoin(
        StoredCorrection, StoredCorrection.uid == r.uid
    )
    for begin in range(0, len(uids), AT_ONCE):
        some = query.where(r.uid.in_(uids[begin : begin + AT_ONCE]))
        found |= {row.uid: row for row in connection.execute(some)}
    return found
