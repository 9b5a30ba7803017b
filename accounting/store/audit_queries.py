"""Reads the whole store in order, in one snapshot and with bounded memory, for `accounting/audit/`."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from sqlalchemy import Connection, Engine, Select, and_, func, or_, select

from accounting.store.engine import store_errors
from accounting.store.retention import deleted_before_us
from accounting.store.rollups import ALL_DIMENSIONS, UsageRow, from_requests, from_sums
from accounting.store.schema import (
    Base,
    BookSum,
    JournalProgress,
    StoredBook,
    StoredCorrection,
    StoredCorrectionShare,
    StoredRequest,
    StoredShare,
    UsageSum,
    stored_text,
)
from accounting.store.sums import HOUR_US

PAGE = 1_000
"""Rows in memory at a time."""

Row = dict[str, Any]


class Charge(NamedTuple):
    """A request's time and what it was charged on one GPU; energy_uj None where its energy is null."""

    started_us: int
    finished_us: int
    uid: str
    energy_uj: int | None


class Snapshot:
    """The store as it was when the first question was asked."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def count(self, table: type[Base]) -> int:
        return self._connection.execute(select(func.count()).select_from(table)).scalar_one()

    def journals(self) -> set[str]:
        """Names of the journals that were stored here."""
        return set(self._connection.scalars(select(JournalProgress.journal)))

    def deleted_before_us(self) -> dict[str, int]:
        """Before when rows of requests and of books were deleted for their age; 0: none were."""
        return {what: deleted_before_us(self._connection, what) for what in ("requests", "books")}

    def hours(self) -> Iterator[int]:
        """The hours, by their begin, of which there are sums of usage; newest first."""
        query = select(UsageSum.bucket_us).where(UsageSum.width_us == HOUR_US).distinct()
        return (row.bucket_us for row in self._stream(query.order_by(UsageSum.bucket_us.desc())))

    def usage(self, hour_us: int) -> tuple[list[UsageRow], list[UsageRow]]:
        """What the sums say of an hour, and what its requests sum to."""
        end_us = hour_us + HOUR_US
        kept = from_sums(self._connection, hour_us, end_us, "hour", ALL_DIMENSIONS)
        return kept, from_requests(self._connection, hour_us, end_us, "hour", ALL_DIMENSIONS)

    def book_hours(self, gpu: str, from_us: int) -> dict[int, dict[str, int]]:
        """The sums of a GPU's hours from then on, by the hour's begin."""
        s = BookSum
        found = select(s.__table__).where(s.width_us == HOUR_US, s.gpu == gpu, s.bucket_us >= from_us)
        return {row.bucket_us: dict(row._mapping) for row in self._connection.execute(found)}

    def gpus(self) -> list[str]:
        """Every GPU that has books or shares."""
        names = select(StoredBook.gpu).union(select(StoredShare.gpu)).subquery()
        return list(self._connection.scalars(select(names.c.gpu).order_by(names.c.gpu)))

    def books(self, gpu: str) -> Iterator[Any]:
        """A GPU's entries in the order of time, as rows with the columns of `StoredBook`."""
        table = StoredBook.__table__
        query = select(table).where(StoredBook.gpu == gpu).order_by(StoredBook.t0_us, StoredBook.t1_us)
        return self._stream(query)

    def charges(self, gpu: str) -> Iterator[Charge]:
        """What requests were charged on this GPU, in the order of their start.

        Among them requests without energy that should have some of this GPU's: others of their backend had,
        before and after.
        """
        joined = StoredShare.uid == StoredRequest.uid
        energy = StoredShare.prefill_uj + StoredShare.decode_uj
        paid = (
            select(StoredRequest.started_us, StoredRequest.finished_us, StoredRequest.uid, energy)
            .join(StoredShare, joined)
            .where(StoredShare.gpu == gpu)
            .order_by(StoredRequest.started_us)
        )
        streams = [map(Charge._make, self._stream(paid))]
        first, last = func.min(StoredRequest.started_us), func.max(StoredRequest.finished_us)
        users = (
            select(StoredRequest.backend, first, last)
            .join(StoredShare, joined)
            .where(StoredShare.gpu == gpu, StoredRequest.backend.is_not(None))
            .group_by(StoredRequest.backend)
        )
        for backend, first_us, last_us in self._connection.execute(users).all():
            unpaid = (
                select(
                    StoredRequest.started_us,
                    StoredRequest.finished_us,
                    StoredRequest.uid,
                    StoredRequest.energy_uj,
                )
                .where(StoredRequest.backend == backend, StoredRequest.energy_uj.is_(None))
                .where(StoredRequest.started_us >= first_us, StoredRequest.finished_us <= last_us)
                .where(~select(StoredShare.uid).where(joined, StoredShare.gpu == gpu).exists())
                .order_by(StoredRequest.started_us)
            )
            streams.append(map(Charge._make, self._stream(unpaid)))
        return heapq.merge(*streams, key=lambda charge: charge.started_us)

    def host_charges(self) -> Iterator[Charge]:
        """What requests were charged of hosts, whichever these are, in the order of their start."""
        r = StoredRequest
        charged = select(r.started_us, r.finished_us, r.uid, r.host_uj).where(r.host_uj.is_not(None))
        return map(Charge._make, self._stream(charged.order_by(r.started_us)))

    def requests(self) -> Iterator[list[tuple[Any, list[Any]]]]:
        """Pages of requests with their shares, in the order of their uid."""
        query = select(StoredRequest.__table__).order_by(StoredRequest.uid)
        stream = self._connection.execute(query.execution_options(yield_per=PAGE))
        for page in stream.partitions():
            shares = self._shares(StoredShare, [row.uid for row in page])
            yield [(row, shares.get(row.uid, [])) for row in page]

    def corrections(self) -> Iterator[list[tuple[Any, list[Any], list[Any]]]]:
        """Pages of corrections by uid: the row, its shares, and the shares of its request."""
        query = select(StoredCorrection.__table__).order_by(StoredCorrection.uid)
        stream = self._connection.execute(query.execution_options(yield_per=PAGE))
        for page in stream.partitions():
            uids = [row.uid for row in page]
            gained, now = self._shares(StoredCorrectionShare, uids), self._shares(StoredShare, uids)
            yield [(row, gained.get(row.uid, []), now.get(row.uid, [])) for row in page]

    def orphans(self) -> Iterator[Any]:
        """Shares (uid, gpu) of requests that are not there."""
        there = select(StoredRequest.uid).where(StoredRequest.uid == StoredShare.uid).exists()
        return self._stream(select(StoredShare.uid, StoredShare.gpu).where(~there))

    def orphaned_corrections(self) -> Iterator[str]:
        """Corrections, or shares of corrections, whose owner is not there: their uids."""
        request = select(StoredRequest.uid).where(StoredRequest.uid == StoredCorrection.uid).exists()
        owner = select(StoredCorrection.uid).where(StoredCorrection.uid == StoredCorrectionShare.uid).exists()
        for row in self._stream(select(StoredCorrection.uid).where(~request)):
            yield row.uid
        for row in self._stream(select(StoredCorrectionShare.uid).where(~owner).distinct()):
            yield row.uid

    # By key, to compare with a journal.

    def requests_by_uid(self, uids: Sequence[str]) -> dict[str, tuple[Any, list[Any]]]:
        """The requests among `uids` (at most PAGE) that are there, with their shares."""
        keys = [stored_text(uid) for uid in uids]
        rows = self._connection.execute(select(StoredRequest.__table__).where(StoredRequest.uid.in_(keys)))
        shares = self._shares(StoredShare, keys)
        return {row.uid: (row, shares.get(row.uid, [])) for row in rows}

    def corrections_by_uid(self, uids: Sequence[str]) -> dict[str, tuple[Any, list[Any]]]:
        """The corrections of requests among `uids` (at most PAGE) that are there, with their shares."""
        keys = [stored_text(uid) for uid in uids]
        query = select(StoredCorrection.__table__).where(StoredCorrection.uid.in_(keys))
        shares = self._shares(StoredCorrectionShare, keys)
        return {row.uid: (row, shares.get(row.uid, [])) for row in self._connection.execute(query)}

    def books_by_start(self, gpu: str, starts_us: Sequence[int]) -> dict[int, Any]:
        """A GPU's entries among those that begin at `starts_us` (at most PAGE), by their start."""
        query = select(StoredBook.__table__).where(
            StoredBook.gpu == stored_text(gpu), StoredBook.t0_us.in_(starts_us)
        )
        return {row.t0_us: row for row in self._connection.execute(query)}

    def book_starts(self, gpu: str, from_us: int) -> Iterator[int]:
        """Where this GPU's entries begin, from `from_us` on."""
        query = select(StoredBook.t0_us).where(
            StoredBook.gpu == stored_text(gpu), StoredBook.t0_us >= from_us
        )
        return (row.t0_us for row in self._stream(query))

    def uids_charged(self, from_us: dict[str, int]) -> Iterator[str]:
        """Requests with a share of one of these GPUs that finished at or after the GPU's time."""
        wanted = [
            and_(StoredShare.gpu == stored_text(gpu), StoredRequest.finished_us >= t_us)
            for gpu, t_us in from_us.items()
        ]
        if not wanted:
            return iter(())
        query = select(StoredRequest.uid).join(StoredShare, StoredShare.uid == StoredRequest.uid)
        return (row.uid for row in self._stream(query.where(or_(*wanted)).distinct()))

    def uids_without_share(self, after_us: int) -> Iterator[str]:
        """Requests without any share that finished after `after_us`."""
        shared = select(StoredShare.uid).where(StoredShare.uid == StoredRequest.uid).exists()
        query = select(StoredRequest.uid).where(StoredRequest.finished_us > after_us, ~shared)
        return (row.uid for row in self._stream(query))

    def _stream(self, query: Select[*tuple[Any, ...]]) -> Iterator[Any]:
        return iter(self._connection.execute(query.execution_options(yield_per=PAGE)))

    def _shares(
        self, table: type[StoredShare | StoredCorrectionShare], uids: Sequence[str]
    ) -> dict[str, list[Any]]:
        found: dict[str, list[Any]] = {}
        query = select(table.__table__).where(table.uid.in_(uids)).order_by(table.gpu)
        for row in self._connection.execute(query):
            found.setdefault(row.uid, []).append(row)
        return found


@contextmanager
def snapshot(engine: Engine) -> Iterator[Snapshot]:
    """Everything asked inside sees the store at one moment. Raises StoreError when the database fails."""
    with store_errors(engine, "cannot read the store"), engine.connect() as connection:
        if connection.dialect.name == "postgresql":
            connection = connection.execution_options(isolation_level="REPEATABLE READ")
        yield Snapshot(connection)
