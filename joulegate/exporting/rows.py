"""What can be exported: requests, books by the hour, charges in the form of FOCUS."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from operator import attrgetter

import msgspec

from accounting.billing import focus
from accounting.billing.bills import Month
from accounting.billing.source import project_of
from accounting.billing.tariff import DAY_US, HOUR_US
from accounting.records import RequestRecord
from accounting.store.queries import Cursor, RequestFilter, StoreReader
from joulegate.exporting.files import Field, Kind, Row

PAGE = 1_000
"""Requests read at a time."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_KINDS: dict[str, Kind] = {
    "streamed": "boolean",
    "simulated": "boolean",
    "quality": "number",
    "http_status": "integer",
}


_TIMES = ("started_us", "scheduled_us", "first_token_us", "finished_us", "corrected_us")
_NESTED = ("shares", "media")
_MEDIA: dict[str, Kind] = {
    "kind": "text",
    "count": "integer",
    "width": "integer",
    "height": "integer",
    "steps": "integer",
    "frames": "integer",
    "fps": "number",
}


def _name(name: str) -> str:
    """Times are told as such, not in microseconds."""
    return f"{name.removesuffix('_us')}_at" if name in _TIMES else name


def _kind(name: str) -> Kind:
    if name in _TIMES:
        return "time"
    return _KINDS.get(name, "integer" if name.endswith(("_uj", "_us", "_tokens")) else "text")


_FLAT = [name for name in RequestRecord.__struct_fields__ if name not in _NESTED]
REQUEST_FIELDS = [
    *(Field(_name(name), _kind(name)) for name in _FLAT),
    *(Field(f"media_{name}", kind) for name, kind in _MEDIA.items()),
    Field("gpus", "text"),
]
"""The record's fields, what it made, and its shares by GPU as JSON."""


def request_rows(reader: StoreReader, wanted: RequestFilter, project: str | None = None) -> Iterator[Row]:
    """Settled requests, newest first, a page at a time; of one project if given. Raises StoreError."""
    cursor: Cursor | None = None
    while True:
        page = reader.requests(wanted, PAGE, cursor)
        for record in page.records:
            if project is None or project_of(record.project, record.tenant) == project:
                yield _request(record)
        cursor = page.next
        if cursor is None:
            return


_values = attrgetter(*_FLAT)
_AT = [place for place, name in enumerate(_FLAT) if name in _TIMES]
_NOTHING = (None,) * len(_MEDIA)
_made = attrgetter(*_MEDIA)


def _request(record: RequestRecord) -> Row:
    row = list(_values(record))
    for place in _AT:
        row[place] = _at(row[place])
    row += _NOTHING if record.media is None else _made(record.media)
    row.append(msgspec.json.encode(record.shares).decode())
    return row


def _at(t_us: int | None) -> datetime | None:
    return None if t_us is None else _EPOCH + timedelta(microseconds=t_us)


BOOK_FIELDS: Sequence[Field] = [
    Field("hour", "time"),
    Field("device", "text"),
    Field("boundary", "text"),
    Field("measured_uj", "integer"),
    Field("requests_uj", "integer"),
    Field("idle_uj", "integer"),
    Field("unobserved_uj", "integer"),
    Field("unmeasured_uj", "integer"),
    Field("covered_us", "integer"),
    Field("not_covered_us", "integer"),
    Field("intervals", "integer"),
    Field("balanced", "boolean"),
]


def book_rows(reader: StoreReader, start_us: int, end_us: int) -> Iterator[Row]:
    """The books of each device by the hour of UTC, oldest first. Raises StoreError."""
    for t_us in range(start_us, end_us, DAY_US):
        for row in reader.books(t_us, t_us + DAY_US, None, HOUR_US).rows:
            named = {"hour": _at(row.bucket_us), "device": row.gpu}
            yield [named.get(field.name) or getattr(row, field.name) for field in BOOK_FIELDS]


def focus_rows(month: Month, project: str | None = None) -> Iterator[Row]:
    """The charges of a month; of one project if given. Raises FocusError."""
    for row in focus.focus_rows(month.period, month.charges, month.terms):
        if project is None or row["SubAccountId"] == project:
            yield list(row.values())


FOCUS_FIELDS = [Field(column.name, column.kind) for column in focus.COLUMNS]
