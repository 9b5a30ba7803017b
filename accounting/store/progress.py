"""How far each journal is stored, moved in the transaction of the rows."""

from __future__ import annotations

import time
from typing import NamedTuple

from sqlalchemy import Connection, case, func, select
from sqlalchemy.dialects import postgresql, sqlite

from accounting.records import Correction, Output, RequestRecord
from accounting.store.schema import JournalProgress


class Progress(NamedTuple):
    """All that the journal's segments before `segment` tell is stored; `outputs` were, all in all."""

    segment: int
    outputs: int


def read_progress(connection: Connection, journal_id: str) -> Progress | None:
    """None when nothing of this journal was ever stored."""
    query = select(JournalProgress.segment, JournalProgress.outputs)
    row = connection.execute(query.where(JournalProgress.journal == journal_id)).one_or_none()
    return None if row is None else Progress(*row)


def move_progress(
    connection: Connection, journal_id: str, segment: int | None, outputs: int, needed_us: int | None
) -> Progress:
    """So many more outputs are stored, and all that the segments before `segment` tell. Never goes back.

    `needed_us` (None: as before) is the newest time of anything that those segments told. What is then there.
    """
    p = JournalProgress
    values = {
        "journal": journal_id,
        "segment": segment or 0,
        "outputs": outputs,
        "needed_us": needed_us,
        "seen_us": time.time_ns() // 1000,
    }
    insert = postgresql.insert(p) if connection.dialect.name == "postgresql" else sqlite.insert(p)
    new = insert.excluded
    moved = {
        "segment": case((new.segment > p.segment, new.segment), else_=p.segment),
        "outputs": p.outputs + new.outputs,
        "needed_us": func.coalesce(new.needed_us, p.needed_us),
        "seen_us": new.seen_us,
    }
    upsert = insert.on_conflict_do_update(index_elements=["journal"], set_=moved)
    return Progress(*connection.execute(upsert.returning(p.segment, p.outputs), values).one())


def happened_us(output: Output) -> int:
    """The time by which an output is old or new."""
    if isinstance(output, RequestRecord):
        return output.finished_us
    return output.corrected_us if isinstance(output, Correction) else output.t0_us
