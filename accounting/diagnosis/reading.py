"""Reads a window from the store: facts, sums over requests, books.

Up to SHORT_US the requests themselves are summed, in whole minutes; beyond, or where they were deleted for
their age, the sums by hour are taken and the window is made whole hours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from sqlalchemy import Engine, func, select

from accounting.diagnosis.causes.power import HELD
from accounting.diagnosis.serving import Asked
from accounting.diagnosis.window import Booked, Spent, Window
from accounting.records import MINUTE_US, BackendFacts
from accounting.store.engine import CannotAnswer, DetailDeleted, store_errors
from accounting.store.facts import FactsReader
from accounting.store.queries import StoreReader
from accounting.store.rollups import Bucket, Dimension, Filters, UsageReader
from accounting.store.schema import StoredRequest, stored_text
from accounting.store.sums import HOUR_US

SHORT_US = 6 * HOUR_US
MOST_ASKED = 5_000
LONGEST_US = 31 * 24 * HOUR_US
_GROUPS: Sequence[Dimension] = ("backend", "model", "status")


class TooLong(CannotAnswer):
    """The window is longer than LONGEST_US."""


class NothingKnown(CannotAnswer):
    """There are no facts of this time, or of whom was asked about."""


class WindowReader:
    """Each window is a few read transactions. Raises StoreError when the database fails."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._facts, self._store, self._usage = FactsReader(engine), StoreReader(engine), UsageReader(engine)

    def window(
        self,
        t0_us: int,
        t1_us: int,
        *,
        backend: str | None = None,
        model: str | None = None,
        tenant: str | None = None,
        live: Sequence[BackendFacts] = (),
    ) -> Window:
        """[t0_us, t1_us) made whole minutes or hours, of all or of one backend, model, tenant.

        `live` are facts of minutes that are not stored yet. Raises TooLong, NothingKnown.
        """
        if t1_us - t0_us > LONGEST_US:
            raise TooLong(f"at most {LONGEST_US // HOUR_US // 24} days can be looked through at a time")
        t0_us, t1_us, spent = self._spent(t0_us, t1_us, {})
        given: dict[Dimension, str | None] = {"backend": backend, "model": model, "tenant": tenant}
        who = {name: value for name, value in given.items() if value is not None}
        asked = None
        if who:
            filters: Filters = {name: [value] for name, value in who.items()}
            asked = self._spent(t0_us, t1_us, filters)[2]
        names = None if not who else _names(asked or (), backend if set(who) == {"backend"} else None)
        facts = self._facts.facts(t0_us, t1_us, names)
        stored = {(one.backend, one.t0_us) for one in facts}
        facts += [
            one
            for one in live
            if t0_us <= one.t0_us < t1_us
            and (one.backend, one.t0_us) not in stored
            and (names is None or one.backend in names)
        ]
        if not facts:
            raise NothingKnown(
                "nothing is known of this time, or nobody of that name was served in it; what is known of a"
                " minute is stored once it is over"
            )
        there = {one.backend for one in facts}
        spent = [s for s in spent if s.backend in there]
        whole_gpus = set(who) <= {"backend"}
        return Window(
            t0_us=t0_us,
            t1_us=t1_us,
            facts=facts,
            spent=spent,
            asked=asked,
            booked=self._booked(t0_us, t1_us, facts) if whole_gpus else None,
            earlier=self._earlier(t0_us, facts),
            shares={} if whole_gpus else _shares(spent, asked or ()),
        )

    def mix(self, t0_us: int, t1_us: int, backends: Sequence[str], model: str | None = None) -> list[Asked]:
        """The newest MOST_ASKED requests that ended well in [t0_us, t1_us) and whose tokens are known."""
        r = StoredRequest
        query = (
            select(r.prompt_tokens, func.coalesce(r.cached_tokens, 0), r.completion_tokens)
            .where(r.finished_us >= t0_us, r.finished_us < t1_us, r.status == "ok")
            .where(r.prompt_tokens > 0, r.completion_tokens > 0, r.media_kind.is_(None))
            .where(r.backend.in_([stored_text(name) for name in backends]))
        )
        if model is not None:
            query = query.where(r.model == stored_text(model))
        query = query.order_by(r.finished_us.desc(), r.uid.desc()).limit(MOST_ASKED)
        with store_errors(self._engine, "cannot read the requests"), self._engine.connect() as connection:
            return [Asked(p or 0, c, a or 0) for p, c, a in connection.execute(query)]

    def _spent(self, t0_us: int, t1_us: int, filters: Filters) -> tuple[int, int, list[Spent]]:
        width_us = MINUTE_US if t1_us - t0_us <= SHORT_US else HOUR_US
        bucket: Bucket | None = "minute" if width_us == MINUTE_US else None
        begin, end = t0_us // width_us * width_us, -(-t1_us // width_us) * width_us
        try:
            rows = self._usage.usage(begin, end, bucket, _GROUPS, filters)
        except DetailDeleted:
            begin, end = t0_us // HOUR_US * HOUR_US, -(-t1_us // HOUR_US) * HOUR_US
            rows = self._usage.usage(begin, end, None, _GROUPS, filters)
        sums: dict[tuple[object, ...], Spent] = {}
        for row in rows:
            if row.group["backend"] is None:
                continue
            key = tuple(row.group[name] for name in _GROUPS)
            used = row.usage
            one = Spent(
                backend=_text(row.group["backend"]),
                model=_text(row.group["model"]),
                status=str(row.group["status"]),
                requests=used.requests,
                energy_uj=used.energy_uj or 0,
                prefill_uj=used.prefill_uj or 0,
                decode_uj=used.decode_uj or 0,
                dynamic_uj=used.dynamic_uj,
                prompt_tokens=used.prompt_tokens,
                cached_tokens=used.cached_tokens,
                completion_tokens=used.completion_tokens,
            )
            sums[key] = one if key not in sums else _added(sums[key], one)
        return begin, end, list(sums.values())

    def _booked(self, t0_us: int, t1_us: int, facts: Sequence[BackendFacts]) -> Booked:
        gpus = {gpu for one in facts for gpu in one.gpus}
        rows = [row for row in self._store.books(t0_us, t1_us).rows if row.gpu in gpus]
        measured = [row.measured_uj for row in rows if row.measured_uj is not None]
        return Booked(
            measured_uj=sum(measured) if measured else None,
            requests_uj=sum(row.requests_uj for row in rows),
            idle_uj=sum(row.idle_uj for row in rows),
            unobserved_uj=sum(row.unobserved_uj for row in rows),
            unmeasured_uj=sum(row.unmeasured_uj for row in rows),
        )

    def _earlier(self, t0_us: int, facts: Sequence[BackendFacts]) -> list[BackendFacts]:
        """Minutes with free clocks, of backends whose clocks were held down."""
        held = {one.backend for one in facts if (one.capped or 0.0) >= HELD or (one.throttled or 0.0) >= HELD}
        found = (self._facts.free(name, t0_us) for name in sorted(held))
        return [one for one in found if one is not None]


def _names(asked: Sequence[Spent], backend: str | None) -> list[str]:
    names = {s.backend for s in asked if s.backend is not None}
    return sorted(names | ({backend} if backend is not None else set()))


def _shares(spent: Sequence[Spent], asked: Sequence[Spent]) -> dict[str, float]:
    def by_backend(rows: Sequence[Spent]) -> Mapping[str, int]:
        sums: dict[str, int] = {}
        for row in rows:
            sums[row.backend or ""] = sums.get(row.backend or "", 0) + row.energy_uj
        return sums

    whole, mine = by_backend(spent), by_backend(asked)
    return {name: mine.get(name, 0) / uj if uj else 0.0 for name, uj in whole.items()}


def _added(a: Spent, b: Spent) -> Spent:
    def both(x: int | None, y: int | None) -> int | None:
        return x if y is None else y if x is None else x + y

    return replace(
        a,
        requests=a.requests + b.requests,
        energy_uj=a.energy_uj + b.energy_uj,
        prefill_uj=a.prefill_uj + b.prefill_uj,
        decode_uj=a.decode_uj + b.decode_uj,
        dynamic_uj=both(a.dynamic_uj, b.dynamic_uj),
        prompt_tokens=both(a.prompt_tokens, b.prompt_tokens),
        cached_tokens=both(a.cached_tokens, b.cached_tokens),
        completion_tokens=both(a.completion_tokens, b.completion_tokens),
    )


def _text(value: str | bool | None) -> str | None:
    return None if value is None else str(value)
