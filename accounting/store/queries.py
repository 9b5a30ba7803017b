"""Reads the store: one request, pages of requests, sums over the books (`book_queries.py`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import ColumnElement, Connection, Engine, Row, Select, literal, select, tuple_

from accounting.events import Status
from accounting.records import Boundary, GpuShare, RequestRecord, boundary_of
from accounting.store.book_queries import Window, book_query
from accounting.store.engine import CannotAnswer, store_errors
from accounting.store.media import take_media
from accounting.store.schema import (
    StoredCorrection,
    StoredRequest,
    StoredShare,
    stored_text,
)

MAX_BOOK_ROWS = 10_000
"""Most rows (GPUs times buckets) that `books` answers, so that a question cannot fill the memory."""


class TooManyRows(CannotAnswer):
    """The answer would be larger than `MAX_BOOK_ROWS`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestFilter:
    """Which requests are wanted; None means any. Times in UTC microseconds, `before` exclusive."""

    tenant: str | None = None
    model: str | None = None
    backend: str | None = None
    status: Status | None = None
    route: str | None = None
    project: str | None = None
    user_id: str | None = None
    api_key: str | None = None
    started_from_us: int | None = None
    started_before_us: int | None = None
    finished_from_us: int | None = None
    finished_before_us: int | None = None


class Cursor(NamedTuple):
    """Where a page ended: the place of its last request in the order (finished_us, uid)."""

    finished_us: int
    uid: str


@dataclass(frozen=True, slots=True)
class Page:
    """Requests, newest first, and where the next page starts (None: this was the last)."""

    records: list[RequestRecord]
    next: Cursor | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BooksRow:
    """The books of one GPU or host, summed over the intervals that start in a window or in a bucket of it.

    `gpu` is None for the sum over all devices of a `boundary`, whose times are device time. `t0_us` is where
    the first of the intervals starts, `t1_us` where the last ends. `covered_us` is what the counter covered
    of the intervals, `not_covered_us` the rest of them; time that no interval took (joulegate was down) is in
    neither.
    `measured_uj` is None when nothing was covered. `balanced`: measured = requests + idle + unobserved +
    unmeasured holds in every single interval, not only in the sum.
    """

    gpu: str | None
    boundary: Boundary
    bucket_us: int | None
    t0_us: int
    t1_us: int
    measured_uj: int | None
    requests_uj: int
    idle_uj: int
    unobserved_uj: int
    unmeasured_uj: int
    covered_us: int
    not_covered_us: int
    intervals: int
    balanced: bool


@dataclass(frozen=True, slots=True)
class Books:
    """Rows by bucket, then device; the sum over GPUs, and that over hosts (None where there are none)."""

    rows: list[BooksRow]
    total: BooksRow | None
    host_total: BooksRow | None


class StoreReader:
    """Questions to the store. Each is one read transaction; all raise StoreError when the database fails."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def request(self, request_id: str) -> RequestRecord | None:
        """The request with this uid, else the newest with this request id, else None."""
        key = stored_text(request_id)
        r = StoredRequest
        # PostgreSQL finds a uid in one partition; other ids it has to look for in all of them.
        uid_of = (
            select(r.uid).where(r.request_id == key).order_by(r.finished_us.desc(), r.uid.desc()).limit(1)
        )
        with store_errors(self._engine, "cannot read the request"), self._engine.connect() as connection:
            row = connection.execute(_requests().where(r.uid == key)).one_or_none()
            if row is None and (uid := connection.execute(uid_of).scalar_one_or_none()) is not None:
                row = connection.execute(_requests().where(r.uid == uid)).one_or_none()
            return None if row is None else _records(connection, [row])[0]

    def job(self, job: str) -> RequestRecord | None:
        """The request that began the job with this id; of several backends with the same the newest."""
        newest = _requests().where(StoredRequest.job == stored_text(job))
        newest = newest.order_by(StoredRequest.finished_us.desc(), StoredRequest.uid.desc()).limit(1)
        with store_errors(self._engine, "cannot read the job"), self._engine.connect() as connection:
            row = connection.execute(newest).one_or_none()
            return None if row is None else _records(connection, [row])[0]

    def requests(self, wanted: RequestFilter, limit: int, after: Cursor | None = None) -> Page:
        """At most `limit` requests, newest first, from behind the cursor `after` on."""
        query = _requests().where(*_conditions(wanted))
        place = tuple_(StoredRequest.finished_us, StoredRequest.uid)
        if after is not None:
            query = query.where(place < tuple_(literal(after.finished_us), literal(stored_text(after.uid))))
        query = query.order_by(StoredRequest.finished_us.desc(), StoredRequest.uid.desc()).limit(limit + 1)
        with store_errors(self._engine, "cannot list the requests"), self._engine.connect() as connection:
            rows = connection.execute(query).all()
            records = _records(connection, rows[:limit])
        more = len(rows) > limit and records
        return Page(records, Cursor(records[-1].finished_us, records[-1].uid) if more else None)

    def books(
        self,
        t0_us: int | None = None,
        t1_us: int | None = None,
        gpu: str | None = None,
        bucket_us: int | None = None,
    ) -> Books:
        """Sums per GPU over the intervals that start in [t0_us, t1_us), in buckets of `bucket_us` if given.

        Buckets start at multiples of their width. Raises TooManyRows above `MAX_BOOK_ROWS`, DetailDeleted
        where whole hours only are known any more.
        """
        device = None if gpu is None else stored_text(gpu)
        with store_errors(self._engine, "cannot read the books"), self._engine.connect() as connection:
            query = book_query(connection, Window(t0_us, t1_us, device, bucket_us))
            found = connection.execute(query.limit(MAX_BOOK_ROWS + 1)).all()
        if len(found) > MAX_BOOK_ROWS:
            raise TooManyRows(f"more than {MAX_BOOK_ROWS} rows: ask for a shorter time or wider buckets")
        rows = [_books_row(row) for row in found]
        return Books(rows, _total(rows, "gpu"), _total(rows, "host"))


def _requests() -> Select[Any]:
    # The table, not the class: plain rows are all that is needed.
    added_uj = StoredCorrection.prefill_uj + StoredCorrection.decode_uj
    return select(
        StoredRequest.__table__, StoredCorrection.corrected_us, added_uj.label("correction_uj")
    ).outerjoin(StoredCorrection, StoredCorrection.uid == StoredRequest.uid)


def _conditions(wanted: RequestFilter) -> list[ColumnElement[bool]]:
    r = StoredRequest
    texts = [
        (r.tenant, wanted.tenant),
        (r.model, wanted.model),
        (r.backend, wanted.backend),
        (r.status, wanted.status),
        (r.route, wanted.route),
        (r.project, wanted.project),
        (r.user_id, wanted.user_id),
        (r.api_key, wanted.api_key),
    ]
    conditions: list[ColumnElement[bool]] = [
        c == stored_text(value) for c, value in texts if value is not None
    ]
    froms = [(r.started_us, wanted.started_from_us), (r.finished_us, wanted.finished_from_us)]
    befores = [(r.started_us, wanted.started_before_us), (r.finished_us, wanted.finished_before_us)]
    conditions += [c >= value for c, value in froms if value is not None]
    conditions += [c < value for c, value in befores if value is not None]
    return conditions


def _records(connection: Connection, rows: Sequence[Row[Any]]) -> list[RequestRecord]:
    """Records from rows of `requests`, in their order, with their shares by GPU."""
    shares: dict[str, list[GpuShare]] = {row.uid: [] for row in rows}
    found = select(StoredShare.__table__).where(StoredShare.uid.in_(list(shares))).order_by(StoredShare.gpu)
    for share in connection.execute(found):
        shares[share.uid].append(
            GpuShare(gpu=share.gpu, prefill_uj=share.prefill_uj, decode_uj=share.decode_uj)
        )
    return [_record(row, shares[row.uid]) for row in rows]


def _record(row: Row[Any], shares: list[GpuShare]) -> RequestRecord:
    fields = dict(row._mapping)
    return msgspec.convert({**fields, "media": take_media(fields), "shares": shares}, RequestRecord)


def _books_row(row: Row[Any]) -> BooksRow:
    # PostgreSQL sums 64-bit integers into decimals.
    numbers: dict[str, Any] = {
        name: None if value is None else int(value) for name, value in row._mapping.items() if name != "gpu"
    }
    bucket_us, unbalanced = numbers.pop("bucket_us", None), numbers.pop("unbalanced")
    boundary = boundary_of(row.gpu)
    return BooksRow(gpu=row.gpu, boundary=boundary, bucket_us=bucket_us, balanced=unbalanced == 0, **numbers)


def _total(all_rows: Sequence[BooksRow], boundary: Boundary) -> BooksRow | None:
    rows = [row for row in all_rows if row.boundary == boundary]
    if not rows:
        return None
    measured = [row.measured_uj for row in rows if row.measured_uj is not None]
    return BooksRow(
        gpu=None,
        boundary=boundary,
        bucket_us=None,
        t0_us=min(row.t0_us for row in rows),
        t1_us=max(row.t1_us for row in rows),
        measured_uj=sum(measured) if measured else None,
        requests_uj=sum(row.requests_uj for row in rows),
        idle_uj=sum(row.idle_uj for row in rows),
        unobserved_uj=sum(row.unobserved_uj for row in rows),
        unmeasured_uj=sum(row.unmeasured_uj for row in rows),
        covered_us=sum(row.covered_us for row in rows),
        not_covered_us=sum(row.not_covered_us for row in rows),
        intervals=sum(row.intervals for row in rows),
        balanced=all(row.balanced for row in rows),
    )
