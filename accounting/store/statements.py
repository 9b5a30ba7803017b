"""Puts the ledger's outputs into the tables and their sums, in the transaction of the caller.

A row that is already there is left alone, so an output may come twice. A correction is inserted, and only if
it was not there yet are its differences added to the request and its shares: once, whatever is replayed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter
from typing import Any

from sqlalchemy import (
    BigInteger,
    BindParameter,
    Connection,
    Text,
    bindparam,
    func,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from accounting.records import BackendFacts, Booked, BookEntry, Correction, GpuShare, Output, RequestRecord
from accounting.store import sums
from accounting.store.facts import write_facts
from accounting.store.many import Inserts, Values
from accounting.store.media import MEDIA_FIELDS, media_values
from accounting.store.schema import (
    TEXT_LIMIT,
    Base,
    StoredBook,
    StoredCorrection,
    StoredCorrectionShare,
    StoredRequest,
    StoredShare,
    stored_text,
)

ERROR_TEXT_LIMIT = 4_096
"""Longest error text kept, in characters. It stands in no index."""

Row = dict[str, Any]


_REQUESTS, _SHARES, _BOOKS = Inserts(StoredRequest), Inserts(StoredShare), Inserts(StoredBook)
REQUEST_FIELDS, BOOK_FIELDS = _REQUESTS.names, _BOOKS.names
CORRECTION_FIELDS = Inserts(StoredCorrection).names

_MEDIA_AT = _REQUESTS.names.index(MEDIA_FIELDS[0])
_request_fields: Callable[[RequestRecord], Values] = attrgetter(
    *(name for name in _REQUESTS.names if name not in MEDIA_FIELDS)
)
_book_values: Callable[[BookEntry], Values] = attrgetter(*_BOOKS.names)
_ERROR_AT = _REQUESTS.names.index("error")


class AlreadyThereError(Exception):
    """Some of the rows are in the table: roll back and write again with `anew=False`."""


def write(connection: Connection, outputs: Sequence[Output], *, anew: bool = False) -> None:
    """Insert all of them. A correction must come after its record, in this call or in an earlier one.

    `anew`: as a rule none of the rows is there yet, so nobody looks; raises AlreadyThereError where one is.
    """
    requests = [o for o in outputs if isinstance(o, RequestRecord)]
    corrections = [o for o in outputs if isinstance(o, Correction)]
    books = [o for o in outputs if isinstance(o, BookEntry)]
    if requests:
        _write_requests(connection, requests if anew else _unknown(connection, requests))
    if corrections:
        _write_corrections(connection, corrections)
    if books:
        rows = [_cleaned(_book_values(book)) for book in books]
        _write_books(connection, rows if anew else _unknown_books(connection, rows))
    write_facts(connection, [o for o in outputs if isinstance(o, BackendFacts)])


def values_of(output: Booked) -> Values:
    """As the tables hold them, in the order of REQUEST_FIELDS, BOOK_FIELDS or CORRECTION_FIELDS."""
    if isinstance(output, RequestRecord):
        return _request_values(output)
    if isinstance(output, BookEntry):
        return _cleaned(_book_values(output))
    return tuple(_row(output, CORRECTION_FIELDS).values())


def _unknown(connection: Connection, requests: Sequence[RequestRecord]) -> list[RequestRecord]:
    """Those that are not in the table. A request's shares come from one version of its record: the first, as
    with the request itself."""
    stored = _known(connection, StoredRequest, [stored_text(record.uid) for record in requests])
    new = {record.uid: record for record in reversed(requests) if stored_text(record.uid) not in stored}
    return list(reversed(new.values()))


def _write_requests(connection: Connection, requests: Sequence[RequestRecord]) -> None:
    rows = [_request_values(record) for record in requests]
    if _REQUESTS.run(connection, rows) < len(rows):
        raise AlreadyThereError
    _SHARES.run(connection, _share_values(requests))
    sums.add_requests(connection, rows)


def _unknown_books(connection: Connection, rows: Sequence[Values]) -> list[Values]:
    """Those that are not in the table, each key once."""
    found = select(StoredBook.gpu, StoredBook.t0_us).where(
        StoredBook.gpu.in_({row[0] for row in rows}), StoredBook.t0_us.in_({row[1] for row in rows})
    )
    stored = {(gpu, t0_us) for gpu, t0_us in connection.execute(found)}
    return list({row[:2]: row for row in reversed(rows) if row[:2] not in stored}.values())


def _write_books(connection: Connection, rows: Sequence[Values]) -> None:
    if _BOOKS.run(connection, rows) < len(rows):
        raise AlreadyThereError
    sums.add_books(connection, rows)


def _write_corrections(connection: Connection, corrections: Sequence[Correction]) -> None:
    rows = {row["uid"]: row for row in (_row(c, CORRECTION_FIELDS) for c in reversed(corrections))}
    # One whose request is not there (deleted, or never storable) has nothing that it could correct.
    new = _known(connection, StoredRequest, rows) - _known(connection, StoredCorrection, rows)
    if not new:
        return
    before = _requests_as_stored(connection, new)  # and held: nobody deletes them meanwhile
    connection.execute(_insert(connection, StoredCorrection), [rows[uid] for uid in sorted(new)])
    connection.execute(_CORRECT_REQUEST, [_bound(rows[uid]) for uid in sorted(new)])
    after = _requests_as_stored(connection, new)
    sums.move_requests(connection, [(before[uid], after[uid]) for uid in sorted(new)])
    by_key = {
        (share["uid"], share["gpu"]): share
        for correction in reversed(corrections)
        for share in _share_rows(correction.uid, correction.shares)
        if share["uid"] in new
    }
    if by_key:
        shares = [by_key[key] for key in sorted(by_key)]
        connection.execute(_insert(connection, StoredCorrectionShare), shares)
        connection.execute(_CORRECT_SHARE, [_bound(share) for share in shares])


def _given(name: str) -> BindParameter[int]:
    return bindparam(f"given_{name}", type_=BigInteger)


def _given_text(name: str) -> BindParameter[str]:
    return bindparam(f"given_{name}", type_=Text)


# Both do what `records.corrected` does.
_CORRECT_REQUEST = (
    update(StoredRequest)
    .where(StoredRequest.uid == _given_text("uid"))
    .values(
        energy_uj=func.coalesce(StoredRequest.energy_uj, 0) + _given("prefill_uj") + _given("decode_uj"),
        prefill_uj=func.coalesce(StoredRequest.prefill_uj, 0) + _given("prefill_uj"),
        decode_uj=func.coalesce(StoredRequest.decode_uj, 0) + _given("decode_uj"),
        dynamic_uj=StoredRequest.dynamic_uj + _given("dynamic_uj"),
        uncertainty_uj=_given("uncertainty_uj"),
        scheduled_us=_given("scheduled_us"),
        first_token_us=_given("first_token_us"),
    )
)
_CORRECT_SHARE = (
    update(StoredShare)
    .where(StoredShare.uid == _given_text("uid"), StoredShare.gpu == _given_text("gpu"))
    .values(
        prefill_uj=StoredShare.prefill_uj + _given("prefill_uj"),
        decode_uj=StoredShare.decode_uj + _given("decode_uj"),
    )
)


def _bound(row: Row) -> Row:
    return {f"given_{name}": value for name, value in row.items() if name != "corrected_us"}


def _known(
    connection: Connection, table: type[StoredRequest | StoredCorrection], uids: Iterable[str]
) -> set[str]:
    """Which of the uids the table has."""
    query = select(table.uid).where(table.uid.in_(list(uids)))
    return set(connection.scalars(query))


def _requests_as_stored(connection: Connection, uids: Iterable[str]) -> dict[str, Values]:
    query = select(StoredRequest.__table__).where(StoredRequest.uid.in_(list(uids))).with_for_update()
    return {row.uid: tuple(row) for row in connection.execute(query)}


def _insert(connection: Connection, table: type[Base]) -> postgresql.Insert | sqlite.Insert:
    insert: Callable[[type[Base]], postgresql.Insert | sqlite.Insert] = (
        postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    )
    return insert(table)


def _row(output: Booked, names: Sequence[str]) -> Row:
    return dict(zip(names, _cleaned(tuple(getattr(output, name) for name in names)), strict=True))


def _request_values(record: RequestRecord) -> Values:
    own = _request_fields(record)
    values = _cleaned((*own[:_MEDIA_AT], *media_values(record.media), *own[_MEDIA_AT:]))
    if record.error is None:
        return values
    error = stored_text(record.error, ERROR_TEXT_LIMIT)
    return (*values[:_ERROR_AT], error, *values[_ERROR_AT + 1 :])


def _share_values(requests: Iterable[RequestRecord]) -> list[Values]:
    return [
        _cleaned((record.uid, share.gpu, share.prefill_uj, share.decode_uj))
        for record in requests
        for share in record.shares
    ]


def _share_rows(uid: str, shares: Sequence[GpuShare]) -> list[Row]:
    return [
        dict(zip(_SHARES.names, _cleaned((uid, s.gpu, s.prefill_uj, s.decode_uj)), strict=True))
        for s in shares
    ]


def _cleaned(values: Values) -> Values:
    """The values as the tables hold them. As a rule no text has to be changed, which a glance at all of them
    together tells."""
    texts = [value for value in values if type(value) is str]
    whole = "".join(texts)
    if whole.isascii() and "\0" not in whole and len(whole) <= TEXT_LIMIT:
        return values
    return tuple(stored_text(value) if isinstance(value, str) else value for value in values)
