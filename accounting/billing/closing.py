"""Closed periods in the store: what was billed stays as it was, byte for byte."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import msgspec
from sqlalchemy import Engine, insert, or_, select
from sqlalchemy.exc import IntegrityError

from accounting.billing.charges import Charge
from accounting.billing.terms import Terms
from accounting.store.engine import StoreError, store_errors, writing
from accounting.store.schema import BilledCharge, BillingPeriod

AT_ONCE = 1_000
"""Rows inserted together."""


class Closed(NamedTuple):
    period: str
    closed_us: int
    terms: Terms


class Closings:
    """All raise StoreError."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def all(self) -> list[Closed]:
        """The closed periods, the first first."""
        p = BillingPeriod
        with (
            store_errors(self._engine, "cannot read the closed periods"),
            self._engine.connect() as connection,
        ):
            rows = connection.execute(select(p.period, p.closed_us, p.terms).order_by(p.period)).all()
        return [Closed(row.period, row.closed_us, msgspec.json.decode(row.terms, type=Terms)) for row in rows]

    def charges(self, period: str) -> list[Charge]:
        """What the invoices of a closed period are made of, with what they correct of earlier ones."""
        return self._read(BilledCharge.period == period)

    def billed_of(self, period: str) -> list[Charge]:
        """All that was billed of a period so far: on its own invoices, and as corrections on later ones."""
        own = (BilledCharge.period == period) & BilledCharge.corrects.is_(None)
        return self._read(or_(own, BilledCharge.corrects == period))

    def _read(self, wanted: object) -> list[Charge]:
        b = BilledCharge
        query = select(b.charge).where(wanted).order_by(b.period, b.number)  # type: ignore[arg-type]
        with store_errors(self._engine, "cannot read what was billed"), self._engine.connect() as connection:
            texts = connection.execute(query).scalars().all()
        return [msgspec.json.decode(text, type=Charge) for text in texts]

    def close(self, period: str, terms: Terms, charges: Iterable[Charge], closed_us: int) -> None:
        """Keep a period's charges for good, in one transaction. Raises StoreError if it is closed already."""
        rows = [
            {"period": period, "number": number, "corrects": charge.corrects, "charge": _json(charge)}
            for number, charge in enumerate(charges)
        ]
        try:
            with (
                store_errors(self._engine, "cannot close the period"),
                writing(self._engine) as connection,
                connection.begin(),
            ):
                closed = {"period": period, "closed_us": closed_us, "terms": _json(terms)}
                connection.execute(insert(BillingPeriod), [closed])
                for start in range(0, len(rows), AT_ONCE):
                    connection.execute(insert(BilledCharge), rows[start : start + AT_ONCE])
        except StoreError as error:
            if isinstance(error.__cause__, IntegrityError):
                raise StoreError(f"{period} is closed already") from error
            raise


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
