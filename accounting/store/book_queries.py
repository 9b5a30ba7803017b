"""The statement that sums the books: whole hours from their sums, the ends of a window from the entries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, case, func, literal, select, union_all

from accounting.store.engine import DetailDeleted
from accounting.store.retention import deleted_before_us
from accounting.store.schema import BookSum, StoredBook
from accounting.store.sums import HOUR_US

SUMS = (
    *("length_us", "covered_us", "measured_uj", "with_measured", "requests_uj", "idle_uj", "unobserved_uj"),
    *("unmeasured_uj", "intervals", "unbalanced"),
)
EVER_US = 1 << 62


@dataclass(frozen=True, slots=True)
class Window:
    """Entries of `device` (None: of all) that begin in [t0_us, t1_us), in buckets. None: without an end."""

    t0_us: int | None
    t1_us: int | None
    device: str | None
    bucket_us: int | None


def book_query(connection: Connection, window: Window) -> Select[Any]:
    """Rows by bucket and device, in that order. Raises DetailDeleted where entries would be needed."""
    t0_us, t1_us = window.t0_us or 0, EVER_US if window.t1_us is None else window.t1_us
    pieces: list[Select[Any]] = []
    if window.bucket_us is None or window.bucket_us % HOUR_US == 0:
        first_us, last_us = -(-t0_us // HOUR_US) * HOUR_US, t1_us // HOUR_US * HOUR_US
        if first_us < last_us:
            pieces = [_hours(first_us, last_us), _entries(t0_us, first_us), _entries(last_us, t1_us)]
            needed = [
                start_us for start_us, end_us in ((t0_us, first_us), (last_us, t1_us)) if start_us < end_us
            ]
        else:
            pieces, needed = [_entries(t0_us, t1_us)], [t0_us]
    else:
        pieces, needed = [_entries(t0_us, t1_us)], [t0_us]
    deleted_us = deleted_before_us(connection, "books")
    if needed and min(needed) < deleted_us:
        when = f"before {deleted_us // 1_000_000} (unix seconds)"
        why = f"entries of the books {when} were deleted for their age"
        raise DetailDeleted(f"{why}: ask for whole hours, or from then on")
    return _summed(pieces, window)


def _summed(pieces: list[Select[Any]], window: Window) -> Select[Any]:
    all_ = union_all(*pieces).subquery()
    keys: list[ColumnElement[Any]] = [all_.c.gpu]
    if window.bucket_us is not None:
        # PostgreSQL must see that SELECT and GROUP BY say the same.
        width_us = literal(window.bucket_us, literal_execute=True)
        keys.insert(0, (all_.c.at_us - all_.c.at_us % width_us).label("bucket_us"))
    covered_us, length_us = func.sum(all_.c.covered_us), func.sum(all_.c.length_us)
    query = select(
        *keys,
        func.min(all_.c.t0_us).label("t0_us"),
        func.max(all_.c.t1_us).label("t1_us"),
        case((func.sum(all_.c.with_measured) > 0, func.sum(all_.c.measured_uj))).label("measured_uj"),
        *(func.sum(all_.c[name]).label(name) for name in SUMS[4:]),
        covered_us.label("covered_us"),
        (length_us - covered_us).label("not_covered_us"),
    )
    if window.device is not None:
        query = query.where(all_.c.gpu == window.device)
    return query.group_by(*keys).order_by(*keys)


def _hours(first_us: int, last_us: int) -> Select[Any]:
    s = BookSum
    sums = (getattr(s, name) for name in SUMS)
    query = select(s.bucket_us.label("at_us"), s.gpu, s.t0_us, s.t1_us, *sums)
    return query.where(s.width_us == HOUR_US, s.bucket_us >= first_us, s.bucket_us < last_us)


def _entries(t0_us: int, t1_us: int) -> Select[Any]:
    b = StoredBook
    parts = (b.requests_uj, b.idle_uj, b.unobserved_uj, b.unmeasured_uj)
    booked = b.requests_uj + b.idle_uj + b.unobserved_uj + b.unmeasured_uj
    sums: dict[str, ColumnElement[Any] | Any] = {
        "length_us": b.t1_us - b.t0_us,
        "covered_us": b.covered_us,
        "measured_uj": func.coalesce(b.measured_uj, 0),
        "with_measured": case((b.measured_uj.is_(None), 0), else_=1),
        **dict(zip(SUMS[4:8], parts, strict=True)),
        "intervals": literal(1),
        "unbalanced": case((func.coalesce(b.measured_uj, 0) == booked, 0), else_=1),
    }
    columns = (sums[name].label(name) for name in SUMS)
    query = select(b.t0_us.label("at_us"), b.gpu, b.t0_us, b.t1_us, *columns)
    return query.where(b.t0_us >= t0_us, b.t0_us < t1_us)
