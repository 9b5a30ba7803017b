"""Puts the ledger's outputs into the tables, in the transaction of the caller.

A row that is already there is left alone, so an output may come twice. A correction is inserted, and only if
it was not there yet are its differences added to the request and its shares: once, whatever is replayed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec
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

from accounting.records import BookEntry, Correction, GpuShare, Output, RequestRecord
from accounting.store.schema import (
    TEXT_LIMIT,
    Base,
    JournalProgress,
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


def fields(table: type[Base]) -> tuple[str, ...]:
    return tuple(column.name for column in table.__table__.columns)


REQUEST_FIELDS = fields(StoredRequest)
CORRECTION_FIELDS = fields(StoredCorrection)
BOOK_FIELDS = fields(StoredBook)


def write(connection: Connection, outputs: Sequence[Output]) -> None:
    """Insert all of them. A correction must come after its record, in this call or in an earlier one."""
    requests = [o for o in outputs if isinstance(o, RequestRecord)]
    corrections = [o for o in outputs if isinstance(o, Correction)]
    books = [o for o in outputs if isinstance(o, BookEntry)]
    if requests:
        _write_requests(connection, requests)
    if corrections:
        _write_corrections(connection, corrections)
    if books:
        rows = [_row(book, BOOK_FIELDS) for book in books]
        connection.execute(_insert(connection, StoredBook).on_conflict_do_nothing(), rows)


def move_progress(connection: Connection, journal_id: str, segment: int) -> None:
    """All that the journal's segments before `segment` produce is stored. Never goes back."""
    insert = _insert(connection, JournalProgress)
    forward = insert.on_conflict_do_update(
        index_elements=["journal"],
        set_={"segment": insert.excluded.segment},
        where=JournalProgress.segment < insert.excluded.segment,
    )
    connection.execute(forward, {"journal": stored_text(journal_id), "segment": segment})


def _write_requests(connection: Connection, requests: Sequence[RequestRecord]) -> None:
    rows = [_row(record, REQUEST_FIELDS) for record in requests]
    stored = _known(connection, StoredRequest, rows)
    connection.execute(_insert(connection, StoredRequest).on_conflict_do_nothing(), rows)
    # A request's shares come from one version of its record: the first, as with the request itself.
    shares = [s for r in requests for s in _share_rows(r.uid, r.shares) if s["uid"] not in stored]
    if shares:
        connection.execute(_insert(connection, StoredShare).on_conflict_do_nothing(), shares)


def _write_corrections(connection: Connection, corrections: Sequence[Correction]) -> None:
    rows = {row["uid"]: row for row in (_row(c, CORRECTION_FIELDS) for c in reversed(corrections))}
    # One whose request is not there (deleted, or never storable) has nothing that it could correct.
    new = _known(connection, StoredRequest, rows.values()) - _known(
        connection, StoredCorrection, rows.values()
    )
    if not new:
        return
    connection.execute(_insert(connection, StoredCorrection), [rows[uid] for uid in sorted(new)])
    connection.execute(_CORRECT_REQUEST, [_bound(rows[uid]) for uid in sorted(new)])
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
    connection: Connection, table: type[StoredRequest | StoredCorrection], rows: Iterable[Row]
) -> set[str]:
    """Which of the rows' uids the table has."""
    query = select(table.uid).where(table.uid.in_([row["uid"] for row in rows]))
    return set(connection.scalars(query))


def _insert(connection: Connection, table: type[Base]) -> postgresql.Insert | sqlite.Insert:
    insert: Callable[[type[Base]], postgresql.Insert | sqlite.Insert] = (
        postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    )
    return insert(table)


def _row(output: Output, names: Sequence[str]) -> Row:
    return _cleaned({name: getattr(output, name) for name in names})


def _share_rows(uid: str, shares: Sequence[GpuShare]) -> list[Row]:
    return [_cleaned({"uid": uid, **msgspec.structs.asdict(share)}) for share in shares]


def _cleaned(row: Mapping[str, Any]) -> Row:
    return {
        name: stored_text(value, ERROR_TEXT_LIMIT if name == "error" else TEXT_LIMIT)
        if isinstance(value, str)
        else value
        for name, value in row.items()
    }
