"""Usage, bills and their terms, put together from the settings and a store."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Engine

from accounting.billing.bills import Bills
from accounting.billing.closing import Closings
from accounting.billing.source import Source
from accounting.billing.terms import Terms
from accounting.billing.usage import UsageReport
from accounting.store.queries import StoreReader
from accounting.store.rollups import UsageReader
from proxy.settings import Settings
from proxy.settings_billing import intensity_of, terms_of


@dataclass(frozen=True, slots=True)
class Billing:
    report: UsageReport
    bills: Bills
    terms: Terms


def billing_of(settings: Settings, engine: Engine) -> Billing:
    """Raises CarbonError where the time series cannot be used any more."""
    terms = terms_of(settings.billing, settings.carbon, settings.pue)
    intensity = intensity_of(settings.carbon)
    usage, books = UsageReader(engine), StoreReader(engine)
    return Billing(
        report=UsageReport(usage, books, terms, intensity),
        bills=Bills(Source(usage, books), Closings(engine), terms, intensity),
        terms=terms,
    )
