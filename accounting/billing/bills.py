"""The charges of a month: as they stand now while it is open, as they were once it is closed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from accounting.billing.carbon import Intensity
from accounting.billing.charges import Charge
from accounting.billing.closing import Closings
from accounting.billing.day import order
from accounting.billing.invoice import adjustments
from accounting.billing.source import Source, day_name, month_us
from accounting.billing.tariff import DAY_US
from accounting.billing.terms import Terms

Done = Callable[[str], None]
"""Told each day that is through."""


class BillingError(Exception):
    """What was asked of a period cannot be. The message says why."""


@dataclass(frozen=True, slots=True)
class Month:
    """A month's charges, sorted, and the terms they were made by."""

    period: str
    charges: list[Charge]
    terms: Terms
    closed: bool


class Bills:
    """All raise StoreError and TariffError."""

    def __init__(self, source: Source, closings: Closings, terms: Terms, intensity: Intensity) -> None:
        self._source, self._closings = source, closings
        self._terms, self._intensity = terms, intensity

    def month(self, period: str, done: Done = lambda day: None) -> Month:
        """The charges of a UTC month such as 2026-11.

        Closed: as they were stored. Open, and the next to be closed: with what the closed months turned out
        to be off by, as corrections. Raises BillingError where `period` is no month.
        """
        start_us, end_us = _span(period)
        closed = {entry.period: entry for entry in self._closings.all()}
        if period in closed:
            return Month(period, self._closings.charges(period), closed[period].terms, True)
        charges = sorted(
            self._source.charges(start_us, end_us, self._terms, self._intensity, done), key=order
        )
        if not closed or period == following(max(closed)):
            for entry in closed.values():
                charges += self._late(entry.period, entry.terms)
        return Month(period, charges, self._terms, False)

    def days(self, start_us: int, end_us: int) -> list[Charge]:
        """The charges of whole UTC days as they are known now: by a closed month's terms, else today's."""
        closed = {entry.period: entry.terms for entry in self._closings.all()}
        found: list[Charge] = []
        for t_us in range(start_us, end_us, DAY_US):
            terms = closed.get(day_name(t_us)[:7], self._terms)
            found += self._source.charges(t_us, t_us + DAY_US, terms, self._intensity)
        return found

    def _late(self, period: str, terms: Terms) -> list[Charge]:
        now = self._source.charges(*_span(period), terms, self._intensity)
        return sorted(adjustments(period, self._closings.billed_of(period), now), key=order)

    def close(self, period: str, now_us: int, done: Done = lambda day: None) -> Month:
        """Make a month's invoices final. Months are closed one after the other, none before it is over.

        Raises BillingError where it is not its turn.
        """
        _, end_us = _span(period)
        if now_us < end_us:
            raise BillingError(f"{period} is not over yet")
        closed = [entry.period for entry in self._closings.all()]
        if closed and period <= closed[-1]:
            raise BillingError(f"{period} cannot be closed: {closed[-1]} is closed already")
        if closed and period != following(closed[-1]):
            raise BillingError(f"{following(closed[-1])} has to be closed before {period}")
        month = self.month(period, done)
        self._closings.close(period, month.terms, month.charges, now_us)
        return Month(period, month.charges, month.terms, True)


def following(period: str) -> str:
    """The month after."""
    start = datetime.strptime(period, "%Y-%m").replace(tzinfo=UTC)
    return (start + timedelta(days=32)).strftime("%Y-%m")


def _span(period: str) -> tuple[int, int]:
    try:
        return month_us(period)
    except ValueError as error:
        raise BillingError(f"{period!r} is no month; write one such as 2026-11") from error
