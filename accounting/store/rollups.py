"""Reads usage: requests, tokens and joules by hour, day or in all, by whom and what for.

Hours and days come from the sums that the writer keeps (`sums.py`), minutes from the requests themselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Engine,
    FromClause,
    RowMapping,
    Select,
    Text,
    case,
    cast,
    func,
    literal,
    or_,
    select,
)

from accounting.store.engine import DetailDeleted, store_errors
from accounting.store.queries import TooManyRows
from accounting.store.retention import deleted_before_us
from accounting.store.schema import StoredRequest, UsageKey, UsageSum, stored_text
from accounting.store.sums import COUNTED, DAY_US, DIMENSIONS, HOUR_US, PLAIN, SUMMED

Dimension = Literal[
    "backend",
    "model",
    "route",
    "tenant",
    "project",
    "user_id",
    "api_key",
    "status",
    "simulated",
    "media_kind",
    "media_size",
]
Bucket = Literal["minute", "hour", "day"]

ALL_DIMENSIONS: tuple[Dimension, ...] = get_args(Dimension)

MINUTE_US = 60_000_000
BUCKET_US: dict[Bucket, int] = {"minute": MINUTE_US, "hour": HOUR_US, "day": DAY_US}

MAX_USAGE_ROWS = 100_000
"""Most rows that `usage` answers, so that a question cannot fill the memory."""

Filters = Mapping[Dimension, Sequence[str | bool | None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What some requests used, together. Figures are sums over those of which they are known.

    `with_X` counts these; where it is 0 the sum is None. `unmeasured_us` is time in flight of which no energy
    is known, `with_unmeasured` the requests that have any: with it energy_uj is a lower bound. `host_uj` is
    in no other figure. `video_us` is the length of the videos made.
    """

    requests: int
    prompt_tokens: int | None
    with_prompt: int
    cached_tokens: int | None
    with_cached: int
    completion_tokens: int | None
    with_completion: int
    energy_uj: int | None
    prefill_uj: int | None
    decode_uj: int | None
    with_energy: int
    dynamic_uj: int | None
    with_dynamic: int
    host_uj: int | None
    with_host: int
    unmeasured_us: int
    with_unmeasured: int
    images: int
    videos: int
    video_us: int


@dataclass(frozen=True, slots=True)
class UsageRow:
    """`group` has what was grouped by; `bucket_us` is where the bucket begins, None without buckets."""

    bucket_us: int | None
    group: dict[Dimension, str | bool | None]
    usage: Usage


class UsageReader:
    """Questions about usage. Each is one read transaction; all raise StoreError when the database fails."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def usage(
        self,
        start_us: int,
        end_us: int,
        bucket: Bucket | None = None,
        group_by: Sequence[Dimension] = (),
        filters: Filters | None = None,
    ) -> list[UsageRow]:
        """What the requests that finished in [start_us, end_us) used, by bucket, then group.

        Times in UTC microseconds. Hours and days are counted whole: a bucket that the window touches is in
        the answer with all that is in it. Without buckets the window is taken in whole hours. Buckets and
        groups without requests have no row. `filters`: of each dimension named one of the values (None:
        unknown). Raises TooManyRows above MAX_USAGE_ROWS, DetailDeleted for minutes whose requests were
        deleted for their age.
        """
        with store_errors(self._engine, "cannot read the usage"), self._engine.connect() as connection:
            if bucket == "minute":
                deleted_us = deleted_before_us(connection, "requests")
                if start_us < deleted_us:
                    when = f"before {deleted_us // 1_000_000} (unix seconds)"
                    raise DetailDeleted(f"requests {when} were deleted for their age: ask for whole hours")
                return from_requests(connection, start_us, end_us, bucket, group_by, filters)
            return from_sums(connection, start_us, end_us, bucket, group_by, filters)


def from_requests(
    connection: Connection,
    start_us: int,
    end_us: int,
    bucket: Bucket | None,
    group_by: Sequence[Dimension],
    filters: Filters | None = None,
) -> list[UsageRow]:
    """The same from the requests themselves, summed anew; the window is taken to whole buckets or hours."""
    start_us, end_us = _whole(start_us, end_us, BUCKET_US[bucket or "hour"])
    r = StoredRequest
    columns = {name: _of_request(name) for name in DIMENSIONS}
    counted = {COUNTED[name]: func.count(getattr(r, name)) for name in COUNTED}
    sums = {name: func.sum(getattr(r, name)) for name in (*COUNTED, *PLAIN)}
    some = {"with_unmeasured": func.sum(case((r.unmeasured_us != 0, 1), else_=0)), "requests": func.count()}
    figures: dict[str, ColumnElement[Any]] = {**counted, **sums, **some, **_made()}
    window = (r.finished_us >= start_us, r.finished_us < end_us)
    query = _query(r.__table__, columns, figures, r.finished_us, bucket, group_by, filters)
    return _rows(connection, query.where(*window), group_by)


def from_sums(
    connection: Connection,
    start_us: int,
    end_us: int,
    bucket: Bucket | None,
    group_by: Sequence[Dimension],
    filters: Filters | None = None,
) -> list[UsageRow]:
    """The same from the sums; minutes are not in them."""
    s = UsageSum
    start_us, end_us = _whole(start_us, end_us, BUCKET_US[bucket or "hour"])
    columns = {name: getattr(UsageKey, name) for name in DIMENSIONS}
    figures = {name: func.sum(getattr(s, name)) for name in SUMMED}
    source = s.__table__.join(UsageKey.__table__, UsageKey.key == s.key)
    query = _query(source, columns, figures, s.bucket_us, bucket, group_by, filters)
    return _rows(connection, query.where(or_(*_widths(start_us, end_us, bucket))), group_by)


def _widths(start_us: int, end_us: int, bucket: Bucket | None) -> Iterator[ColumnElement[bool]]:
    """Which sums make up the window: of one width, or days with the hours at both ends of them."""
    if bucket is not None:
        yield _between(BUCKET_US[bucket], start_us, end_us)
        return
    first_us, last_us = -(-start_us // DAY_US) * DAY_US, end_us // DAY_US * DAY_US
    if first_us >= last_us:
        yield _between(HOUR_US, start_us, end_us)
        return
    yield _between(DAY_US, first_us, last_us)
    if start_us < first_us:
        yield _between(HOUR_US, start_us, first_us)
    if last_us < end_us:
        yield _between(HOUR_US, last_us, end_us)


def _between(width_us: int, start_us: int, end_us: int) -> ColumnElement[bool]:
    s = UsageSum
    return (s.width_us == width_us) & (s.bucket_us >= start_us) & (s.bucket_us < end_us)


def _whole(start_us: int, end_us: int, width_us: int) -> tuple[int, int]:
    return start_us // width_us * width_us, -(-end_us // width_us) * width_us


def _made() -> dict[str, ColumnElement[Any]]:
    """As `media.made`."""
    r = StoredRequest
    ok = r.status == "ok"
    length = case((r.media_fps > 0, func.round(r.media_count * r.media_frames / r.media_fps * 1e6)))
    of_kind = {"images": ("image", r.media_count), "videos": ("video", r.media_count)}
    made = {
        name: func.sum(case((ok & (r.media_kind == kind), figure), else_=0))
        for name, (kind, figure) in of_kind.items()
    }
    videos = ok & (r.media_kind == "video")
    return {**made, "video_us": func.sum(case((videos, cast(func.coalesce(length, 0), BigInteger)), else_=0))}


def _of_request(dimension: str) -> ColumnElement[Any]:
    r = StoredRequest
    if dimension == "media_size":
        return case((r.media_kind.is_not(None), cast(r.media_width, Text) + "x" + cast(r.media_height, Text)))
    column: ColumnElement[Any] = getattr(r, dimension)
    return column


def _query(
    source: FromClause,
    columns: Mapping[str, ColumnElement[Any]],
    figures: Mapping[str, ColumnElement[Any]],
    time_us: ColumnElement[int] | Any,
    bucket: Bucket | None,
    group_by: Sequence[Dimension],
    filters: Filters | None,
) -> Select[Any]:
    keys = [columns[name].label(f"by_{name}") for name in group_by]
    if bucket is not None:
        # PostgreSQL must see that SELECT and GROUP BY say the same.
        width_us = literal(BUCKET_US[bucket], literal_execute=True)
        keys.insert(0, (time_us - time_us % width_us).label("bucket"))
    query = select(*keys, *(figure.label(name) for name, figure in figures.items())).select_from(source)
    for name, values in (filters or {}).items():
        known = [stored_text(v) if isinstance(v, str) else v for v in values if v is not None]
        one_of = columns[name].in_(known)
        query = query.where(or_(one_of, columns[name].is_(None)) if None in values else one_of)
    order = [key.asc().nulls_first() for key in keys]
    return query.group_by(*keys).order_by(*order).limit(MAX_USAGE_ROWS + 1)


def _rows(connection: Connection, query: Select[Any], group_by: Sequence[Dimension]) -> list[UsageRow]:
    found = connection.execute(query).mappings().all()
    if len(found) > MAX_USAGE_ROWS:
        raise TooManyRows(f"more than {MAX_USAGE_ROWS} rows: ask for a shorter time or fewer groups")
    # Without keys there is one row always, also of nothing.
    return [
        UsageRow(row.get("bucket"), {name: row[f"by_{name}"] for name in group_by}, _usage(row))
        for row in found
        if row["requests"]
    ]


_KNOWN_WHERE = {**COUNTED, "prefill_uj": "with_energy", "decode_uj": "with_energy"}


def _usage(row: RowMapping) -> Usage:
    # PostgreSQL sums 64-bit integers into decimals.
    numbers: dict[str, Any] = {field.name: int(row[field.name] or 0) for field in fields(Usage)}
    unknown = {name: None for name, known in _KNOWN_WHERE.items() if not numbers[known]}
    return Usage(**{**numbers, **unknown})
