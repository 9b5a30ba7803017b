"""Deletes what is older than it has to be kept. The sums by hour and day stay.

In small transactions, so that nobody waits long. A row is only deleted when no journal can tell it again: it
would be added to the sums a second time.
"""

from __future__ import annotations

import logging
import threading
import time

from sqlalchemy import Connection, Engine, delete, exists, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError

from accounting.store import partitions
from accounting.store.engine import reason, writing
from accounting.store.schema import Deleted, JournalProgress, StoredBook, StoredFacts, StoredRequest
from accounting.store.sums import DAY_US, HOUR_US

log = logging.getLogger(__name__)

PERIOD_S = 3600.0
RETRY_S = 60.0
AT_ONCE = 1_000
"""Requests deleted in one transaction."""

MARGIN_US = 6 * HOUR_US
"""What a segment tells is older than all that those before it told by less than this: an interval is settled
within minutes, whatever its counter does."""

SILENT_US = 30 * DAY_US
"""A journal that stored nothing for so long keeps nobody from deleting."""


class Keeper:
    """Makes partitions ahead and deletes what is old, now and each hour, in a thread of its own."""

    def __init__(
        self,
        engine: Engine,
        *,
        requests_days: int | None,
        books_days: int | None,
        facts_days: int | None = None,
    ) -> None:
        """How long rows are kept, in days; None: for ever."""
        self._engine = engine
        self._days = {"requests": requests_days, "books": books_days, "facts": facts_days}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="store-keeper", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread; one that hangs in the database is left behind."""
        self._stop.set()
        self._thread.join(1.0)

    def _run(self) -> None:
        wait_s = 0.0
        while not self._stop.wait(wait_s):
            wait_s = PERIOD_S
            try:
                keep(self._engine, self._days, time.time_ns() // 1000, self._stop)
            except SQLAlchemyError as error:
                log.info("store: deletes nothing now (%s)", reason(error))
                wait_s = RETRY_S


def keep(
    engine: Engine, days: dict[str, int | None], now_us: int, stop: threading.Event | None = None
) -> dict[str, int]:
    """Make partitions ahead; delete what is older than the days. How many rows or partitions, by table."""
    with writing(engine) as connection, connection.begin():
        partitions.make_ahead(connection, now_us)
    gone = {}
    for what, kept in days.items():
        if kept is None:
            continue
        with writing(engine) as connection, connection.begin():
            before_us = _mark(connection, what, now_us - kept * DAY_US)
        if before_us is None:
            continue
        gone[what] = _drop_days(engine, what, before_us)
        while (stop is None or not stop.is_set()) and (some := _delete_some(engine, what, before_us)):
            gone[what] += some
        if gone[what]:
            log.info("store: deleted %d of %s, older than %d days", gone[what], what, kept)
    return gone


def deleted_before_us(connection: Connection, what: str) -> int:
    """Rows of `what` (requests, books, facts) that are older were deleted for their age; 0: none were."""
    query = select(Deleted.before_us).where(Deleted.what == what)
    return connection.execute(query).scalar_one_or_none() or 0


def _mark(connection: Connection, what: str, before_us: int) -> int | None:
    """Write down, first of all, before which time rows go: whole hours that no journal can tell again. None
    where none are so old: of what was never there nobody shall read that it was deleted."""
    p = JournalProgress
    alive = func.coalesce(p.seen_us, 0) >= time.time_ns() // 1000 - SILENT_US
    needed = list(connection.scalars(select(func.coalesce(p.needed_us, 0)).where(alive)))
    before_us = min([before_us, *(needed_us - MARGIN_US for needed_us in needed)]) // HOUR_US * HOUR_US
    if before_us <= 0 or not _has_older(connection, what, before_us):
        return None
    insert = postgresql.insert(Deleted) if connection.dialect.name == "postgresql" else sqlite.insert(Deleted)
    later = insert.on_conflict_do_update(
        index_elements=["what"],
        set_={"before_us": insert.excluded.before_us},
        where=Deleted.before_us < insert.excluded.before_us,
    )
    connection.execute(later, {"what": what, "before_us": before_us})
    return deleted_before_us(connection, what)


def _has_older(connection: Connection, what: str, before_us: int) -> bool:
    times = {"requests": StoredRequest.finished_us, "books": StoredBook.t0_us, "facts": StoredFacts.t0_us}
    found: bool = connection.execute(select(exists().where(times[what] < before_us))).scalar_one()
    return found


def _drop_days(engine: Engine, what: str, before_us: int) -> int:
    with engine.connect() as connection:
        days = list(partitions.old(connection, what, before_us))
    for day_us in days:
        with engine.begin() as connection:
            partitions.drop(connection, what, day_us)
    return len(days)


def _delete_some(engine: Engine, what: str, before_us: int) -> int:
    with writing(engine) as connection, connection.begin():
        if what == "requests":
            r = StoredRequest
            oldest = select(r.uid).where(r.finished_us < before_us).order_by(r.finished_us, r.uid)
            gone = delete(r).where(r.uid.in_(oldest.limit(AT_ONCE)))
        else:
            b = StoredBook if what == "books" else StoredFacts
            first_us: int | None = connection.execute(select(func.min(b.t0_us))).scalar_one()
            if first_us is None or first_us >= before_us:
                return 0
            gone = delete(b).where(b.t0_us < min(first_us // HOUR_US * HOUR_US + HOUR_US, before_us))
        return connection.execute(gone).rowcount
