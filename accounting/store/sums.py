"""Keeps the sums by hour and day equal to the rows that they are of, in the transaction that writes the rows.

What is added is computed from the rows as the tables hold them, so that a sum is that of its rows to the
microjoule. Rows of sums are added in one order everywhere: writers that share a database cannot lock each
other out for good.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from operator import itemgetter
from typing import Any

from sqlalchemy import Connection

from accounting.store.many import Adds, Inserts, Values
from accounting.store.media import MEDIA_FIELDS, made, size_of
from accounting.store.schema import BookSum, StoredBook, StoredRequest, UsageKey, UsageSum

HOUR_US = 3_600_000_000
DAY_US = 24 * HOUR_US
WIDTHS_US = (HOUR_US, DAY_US)
"""Of the sums that are kept. Days are those of UTC."""

_KEYS, _USAGE = Inserts(UsageKey), Adds(UsageSum)
_BOOKS = Adds(BookSum, earliest="t0_us", latest="t1_us")
_FIELDS = tuple(column.name for column in StoredRequest.__table__.columns)
_BOOK_FIELDS = tuple(column.name for column in StoredBook.__table__.columns)

COUNTED = {
    "prompt_tokens": "with_prompt",
    "cached_tokens": "with_cached",
    "completion_tokens": "with_completion",
    "energy_uj": "with_energy",
    "dynamic_uj": "with_dynamic",
    "host_uj": "with_host",
}
"""Figures that may be unknown, and the column that counts the requests of which they are known."""

PLAIN = ("prefill_uj", "decode_uj", "unmeasured_us")
"""Figures that are just summed: the first two are known where energy_uj is."""

SUMMED = tuple(column.name for column in UsageSum.__table__.columns)[3:]
"""What a row of sums says, behind its key."""

DIMENSIONS = tuple(column.name for column in UsageKey.__table__.columns)[1:]
"""What requests can be told apart by."""

_OWN = tuple(name for name in DIMENSIONS if name in _FIELDS)
_own = itemgetter(*(_FIELDS.index(name) for name in _OWN))
_media = itemgetter(*(_FIELDS.index(name) for name in MEDIA_FIELDS))
_STATUS, _KIND = _FIELDS.index("status"), _FIELDS.index("media_kind")
_FIGURES = ("finished_us", *COUNTED, *PLAIN)
_figures = itemgetter(*(_FIELDS.index(name) for name in _FIGURES))
_FINISHED = _FIELDS.index("finished_us")

Sums = dict[str, int]


def usage_key(dimensions: Mapping[str, Any]) -> str:
    """Names a set of dimensions. Those that are None do not count, so that new ones change no old key."""
    known = {name: value for name, value in dimensions.items() if value is not None}
    return blake2b(json.dumps(known, sort_keys=True).encode(), digest_size=16).hexdigest()


def _dimensions(row: Values) -> Values:
    """In the order of _OWN, the size of images or videos behind."""
    return (*_own(row), None if row[_KIND] is None else size_of(_media(row)))


def add_requests(connection: Connection, rows: Iterable[Values]) -> None:
    """Add new rows of `requests`, each with its values in the order of the columns."""
    grouped: dict[tuple[int, Values], list[Values]] = defaultdict(list)
    for row in rows:
        grouped[row[_FINISHED] // HOUR_US, _dimensions(row)].append(row)
    sums = {place: _summed(together) for place, together in grouped.items()}
    _add(connection, sums)


def move_requests(connection: Connection, rows: Iterable[tuple[Values, Values]]) -> None:
    """Take away the first and add the second of each pair: a row before and after its correction."""
    changes: dict[tuple[int, Values], Sums] = {}
    for before, after in rows:
        place = before[_FINISHED] // HOUR_US, _dimensions(before)
        less, more = _summed([before]), _summed([after])
        change = changes.setdefault(place, dict.fromkeys(SUMMED, 0))
        for name in SUMMED:
            change[name] += more[name] - less[name]
    _add(connection, changes)


def _summed(rows: Sequence[Values]) -> Sums:
    sums = dict.fromkeys(SUMMED, 0)
    sums["requests"] = len(rows)
    for name, column in zip(_FIGURES, zip(*map(_figures, rows), strict=True), strict=True):
        if name in COUNTED:
            known = [value for value in column if value is not None]
            sums[name], sums[COUNTED[name]] = sum(known), len(known)
        else:
            sums[name] = sum(value for value in column if value is not None)
            if name == "unmeasured_us":
                sums["with_unmeasured"] = sum(value != 0 for value in column)
    if rows[0][_KIND] is not None:  # the same in all of them: they are of one group
        for row in rows:
            images, videos, video_us = made(row[_STATUS], _media(row))
            sums["images"] += images
            sums["videos"] += videos
            sums["video_us"] += video_us
    return sums


def _add(connection: Connection, sums: Mapping[tuple[int, Values], Sums]) -> None:
    keys: dict[Values, Values] = {}
    rows: dict[tuple[int, int, str], Sums] = {}
    for (hour, dimensions), more in sums.items():
        if dimensions not in keys:
            known = dict(zip((*_OWN, "media_size"), dimensions, strict=True))
            keys[dimensions] = (usage_key(known), *(known.get(name) for name in DIMENSIONS))
        for width_us in WIDTHS_US:
            place = width_us, hour * HOUR_US // width_us * width_us, keys[dimensions][0]
            row = rows.setdefault(place, dict.fromkeys(SUMMED, 0))
            for name in SUMMED:
                row[name] += more[name]
    _KEYS.run(connection, sorted(keys.values(), key=itemgetter(0)))
    _USAGE.run(connection, [(*place, *rows[place].values()) for place in sorted(rows)])


def add_books(connection: Connection, rows: Iterable[Values]) -> None:
    """Add new rows of `books`, each with its values in the order of the columns."""
    sums: dict[tuple[int, int, str], Values] = {}
    for values in rows:
        row = dict(zip(_BOOK_FIELDS, values, strict=True))
        parts = (row["requests_uj"], row["idle_uj"], row["unobserved_uj"], row["unmeasured_uj"])
        t0_us, t1_us, measured_uj = row["t0_us"], row["t1_us"], row["measured_uj"]
        more = (
            *(t1_us - t0_us, row["covered_us"], measured_uj or 0, int(measured_uj is not None), *parts),
            *(1, int((measured_uj or 0) != sum(parts))),
        )
        for width_us in WIDTHS_US:
            place = width_us, t0_us // width_us * width_us, row["gpu"]
            if place in sums:
                first_us, last_us, *old = sums[place]
                added = tuple(map(sum, zip(old, more, strict=True)))
                sums[place] = (min(first_us, t0_us), max(last_us, t1_us), *added)
            else:
                sums[place] = (t0_us, t1_us, *more)
    _BOOKS.run(connection, [(*place, *sums[place]) for place in sorted(sums)])
