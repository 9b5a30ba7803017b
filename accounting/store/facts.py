"""Facts by backend and minute, into the tables and out of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from operator import attrgetter
from typing import Any

import msgspec
from sqlalchemy import Connection, Engine, func, select

from accounting.records import FREE, BackendFacts
from accounting.store.engine import store_errors
from accounting.store.many import Inserts, Values
from accounting.store.schema import StoredFacts, stored_text

LISTS = ("gpus", "work", "prices", "times")

MOST_ROWS = 200_000
"""Most minutes that one question reads, so that it cannot fill the memory: 28 days of five backends."""

_FACTS = Inserts(StoredFacts)
_values = attrgetter(*_FACTS.names)


def write_facts(connection: Connection, facts: Sequence[BackendFacts]) -> None:
    """Insert them; a minute that is there already stays as it is."""
    _FACTS.run(connection, [_row(one) for one in facts])


def _row(facts: BackendFacts) -> Values:
    values = zip(_FACTS.names, _values(facts), strict=True)
    return tuple(
        json.dumps(value) if name in LISTS else stored_text(value) if isinstance(value, str) else value
        for name, value in values
    )


class FactsReader:
    """Raises StoreError when the database fails."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def facts(self, t0_us: int, t1_us: int, backends: Sequence[str] | None = None) -> list[BackendFacts]:
        """Of the minutes that begin in [t0_us, t1_us), by time; the newest MOST_ROWS where they are more."""
        f = StoredFacts
        query = select(f.__table__).where(f.t0_us >= t0_us, f.t0_us < t1_us)
        if backends is not None:
            query = query.where(f.backend.in_([stored_text(name) for name in backends]))
        query = query.order_by(f.t0_us.desc(), f.backend).limit(MOST_ROWS)
        with store_errors(self._engine, "cannot read the facts"), self._engine.connect() as connection:
            rows = connection.execute(query).mappings().all()
        return [_facts(dict(row)) for row in reversed(rows)]

    def free(self, backend: str, before_us: int) -> BackendFacts | None:
        """The newest minute before a time in which it worked and nothing held its clocks down."""
        f = StoredFacts
        query = (
            select(f.__table__)
            .where(f.backend == stored_text(backend), f.t0_us < before_us, f.learnt_us > 0)
            .where(f.capped <= FREE, func.coalesce(f.throttled, 0.0) <= FREE)
            .order_by(f.t0_us.desc())
            .limit(1)
        )
        with store_errors(self._engine, "cannot read the facts"), self._engine.connect() as connection:
            row = connection.execute(query).mappings().one_or_none()
        return None if row is None else _facts(dict(row))


def _facts(fields: dict[str, Any]) -> BackendFacts:
    read = {name: json.loads(value) if name in LISTS else value for name, value in fields.items()}
    return msgspec.convert(read, BackendFacts)
