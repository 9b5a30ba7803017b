"""Reads many requests at a glance, for pictures: a few figures of each, and where the joules went.

Plain columns instead of records: a hundred thousand requests have to be drawn, not understood.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Engine, func, select

from accounting.store.engine import store_errors
from accounting.store.schema import StoredRequest, StoredShare, stored_text

POINT_FIELDS = (
    "uid",
    "started_us",
    "scheduled_us",
    "first_token_us",
    "finished_us",
    "energy_uj",
    "prompt_tokens",
    "completion_tokens",
    "model",
    "tenant",
    "backend",
    "status",
)

MAX_FLOWS = 2_000


@dataclass(frozen=True, slots=True)
class Flow:
    """Energy that went from a GPU through a backend's model to a tenant, and how many requests took it."""

    gpu: str
    backend: str | None
    model: str | None
    tenant: str | None
    requests: int
    energy_uj: int


class GlanceReader:
    """Each method is one read transaction and raises StoreError when the database fails."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def points(
        self, t0_us: int, t1_us: int, limit: int, tenant: str | None = None, project: str | None = None
    ) -> list[Sequence[Any]]:
        """The newest `limit` requests that finished in [t0_us, t1_us), newest first, as POINT_FIELDS."""
        r = StoredRequest
        query = (
            select(*(getattr(r, name) for name in POINT_FIELDS))
            .where(r.finished_us >= t0_us, r.finished_us < t1_us, *_of(tenant, project))
            .order_by(r.finished_us.desc(), r.uid.desc())
            .limit(limit)
        )
        return self._rows(query, "cannot read the requests")

    def beside(self, uid: str, limit: int, project: str | None = None) -> list[Sequence[Any]]:
        """Requests that were in flight on the same backend while this one was, itself first, then the longest
        company. Of one project, if it is given. Empty where nobody knows it."""
        r = StoredRequest
        columns = [getattr(r, name) for name in POINT_FIELDS]
        mine = self._rows(
            select(*columns, r.backend).where(r.uid == stored_text(uid), *_of(None, project)),
            "cannot read it",
        )
        if not mine:
            return []
        whole = dict(zip(POINT_FIELDS, mine[0], strict=False))
        began, ended, backend = whole["started_us"], whole["finished_us"], mine[0][-1]
        # An index tells who ended after this one began, not who of them began before it ended: looked at are
        # those that ended within a day.
        together = func.min(r.finished_us, ended) if self._sqlite else func.least(r.finished_us, ended)
        since = func.max(r.started_us, began) if self._sqlite else func.greatest(r.started_us, began)
        query = (
            select(*columns)
            .where(r.finished_us > began, r.finished_us < ended + 86_400_000_000)
            .where(r.started_us < ended, r.backend == backend, r.uid != mine[0][0], *_of(None, project))
            .order_by((together - since).desc(), r.uid)
            .limit(limit)
        )
        return [mine[0][:-1], *self._rows(query, "cannot read the requests beside it")]

    def flows(
        self, t0_us: int, t1_us: int, tenant: str | None = None, project: str | None = None
    ) -> list[Flow]:
        """Of the requests that finished in [t0_us, t1_us), the largest first, at most MAX_FLOWS."""
        r, s = StoredRequest, StoredShare
        energy = func.sum(s.prefill_uj + s.decode_uj)
        keys = (s.gpu, r.backend, r.model, r.tenant)
        query = (
            select(*keys, func.count(), energy)
            .join(r, r.uid == s.uid)
            .where(r.finished_us >= t0_us, r.finished_us < t1_us, *_of(tenant, project))
            .group_by(*keys)
            .order_by(energy.desc())
            .limit(MAX_FLOWS)
        )
        rows = self._rows(query, "cannot sum the requests")
        return [
            Flow(gpu, backend, model, tenant, int(n), int(uj)) for gpu, backend, model, tenant, n, uj in rows
        ]

    @property
    def _sqlite(self) -> bool:
        return self._engine.dialect.name == "sqlite"

    def _rows(self, query: Any, doing: str) -> list[Sequence[Any]]:
        with store_errors(self._engine, doing), self._engine.connect() as connection:
            # The driver's own tuples: a row object for each would take most of the time.
            cursor = connection.execute(query).cursor
            return list(cursor.fetchall())


def _of(tenant: str | None, project: str | None) -> list[ColumnElement[bool]]:
    wanted = ((StoredRequest.tenant, tenant), (StoredRequest.project, project))
    return [column == stored_text(name) for column, name in wanted if name is not None]
