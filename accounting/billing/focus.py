"""Charges as rows of the FinOps Open Cost and Usage Specification (FOCUS), version 1.3.

Columns, types and rules: https://focus.finops.org (dataset Cost and Usage). A row is one charge: the part of
one component's energy of one UTC day, at one price, that one user, key and model of a project bears. The
energy of a component, day and price is FOCUS's origin charge, and rows with the same
(ChargePeriodStart, SkuPriceId) are its allocated charges: their ratios sum to exactly 1, as long as the rows
of all projects are there.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Literal, NamedTuple

from accounting.billing.charges import Charge, Component, Who
from accounting.billing.invoice import TITLES, amounts_of, by_project, invoice_number, lines_of
from accounting.billing.terms import Terms
from accounting.billing.units import (
    COST_UNIT,
    PRICE_DIGITS,
    UJ_PER_KWH,
    decimal,
    grams,
    joules,
    minor_digits,
    nearest,
    share,
)

VERSION = "1.3"
Kind = Literal["text", "decimal", "time"]
Value = str | Decimal | datetime | None
Row = dict[str, Value]

BILLED_DIGITS = 10
RATIO_DIGITS = 12
QUANTITY_DIGITS = 18
"""Digits behind the point of a quantity in kWh and of its cost: 1 uJ is 2.8e-13 kWh."""


class Column(NamedTuple):
    name: str
    kind: Kind = "text"
    nullable: bool = True


COLUMNS = (
    Column("AllocatedMethodDetails"),
    Column("AllocatedMethodId"),
    Column("AllocatedResourceId"),
    Column("AllocatedResourceName"),
    Column("AllocatedTags"),
    Column("BilledCost", "decimal", False),
    Column("BillingAccountId", nullable=False),
    Column("BillingAccountName"),
    Column("BillingCurrency", nullable=False),
    Column("BillingPeriodEnd", "time", False),
    Column("BillingPeriodStart", "time", False),
    Column("ChargeCategory", nullable=False),
    Column("ChargeClass"),
    Column("ChargeDescription"),
    Column("ChargeFrequency", nullable=False),
    Column("ChargePeriodEnd", "time", False),
    Column("ChargePeriodStart", "time", False),
    Column("ConsumedQuantity", "decimal"),
    Column("ConsumedUnit"),
    Column("ContractedCost", "decimal", False),
    Column("ContractedUnitPrice", "decimal"),
    Column("EffectiveCost", "decimal", False),
    Column("HostProviderName", nullable=False),
    Column("InvoiceId", nullable=False),
    Column("InvoiceIssuerName", nullable=False),
    Column("ListCost", "decimal", False),
    Column("ListUnitPrice", "decimal"),
    Column("PricingCategory"),
    Column("PricingQuantity", "decimal"),
    Column("PricingUnit"),
    Column("ProviderName", nullable=False),
    Column("PublisherName", nullable=False),
    Column("ResourceId"),
    Column("ResourceName"),
    Column("ResourceType"),
    Column("ServiceCategory", nullable=False),
    Column("ServiceName", nullable=False),
    Column("ServiceProviderName", nullable=False),
    Column("ServiceSubcategory", nullable=False),
    Column("SkuId"),
    Column("SkuMeter"),
    Column("SkuPriceDetails"),
    Column("SkuPriceId"),
    Column("SubAccountId"),
    Column("SubAccountName"),
    Column("Tags"),
    Column("x_ApiKey"),
    Column("x_CarbonGrams", "decimal"),
    Column("x_CarbonGramsMarket", "decimal"),
    Column("x_Component", nullable=False),
    Column("x_Corrects"),
    Column("x_EnergyJoules", "decimal", False),
    Column("x_Model"),
    Column("x_Requests", "decimal", False),
    Column("x_User"),
)
"""ProviderName and PublisherName are deprecated in 1.3 and still mandatory; 1.2 has nothing else."""

METHODS: dict[Component, str] = {
    "gpu": "joulegate-measured-per-request",
    "host": "joulegate-measured-per-request",
    "idle": "joulegate-idle",
    "unattributed": "joulegate-unattributed",
    "overhead": "joulegate-overhead",
}
"""AllocatedMethodId; docs/billing.md explains each."""


class FocusError(Exception):
    """There is nothing that could be a row of FOCUS, which is about money."""


def focus_rows(period: str, charges: Iterable[Charge], terms: Terms) -> Iterator[Row]:
    """The rows of a period, by project and line of its invoice. Charges without a price have none.

    BilledCost sums to the amount of each line of each invoice. Raises FocusError without a currency.
    """
    if terms.currency is None:
        raise FocusError("FOCUS is about money: set billing.currency and billing.tariffs")
    charges = [charge for charge in charges if charge.billed and charge.price is not None]
    ratios = _ratios(charges)
    for project, of_project in by_project(charges).items():
        lines = lines_of(of_project)
        amounts = amounts_of(list(lines.values()), terms)
        invoice = invoice_number(period, project)
        for line, amount in zip(lines.values(), amounts, strict=True):
            for charge, billed in zip(line, _billed(line, amount or 0, terms.currency), strict=True):
                yield _row(period, charge, billed, ratios.get(id(charge)), invoice, terms)


def _ratios(charges: Sequence[Charge]) -> dict[int, Decimal]:
    """Each charge's part of its origin charge, in decimals that sum to exactly 1. Not of corrections."""
    origins: dict[tuple[str, Component, str | None, int | None], list[Charge]] = defaultdict(list)
    for charge in charges:
        if charge.corrects is None and charge.energy_uj:
            origins[charge.day, charge.component, charge.rate, charge.price].append(charge)
    found: dict[int, Decimal] = {}
    for allocated in origins.values():
        parts = share(10**RATIO_DIGITS, [charge.energy_uj for charge in allocated])
        found |= {
            id(c): Decimal(part).scaleb(-RATIO_DIGITS) for c, part in zip(allocated, parts, strict=True)
        }
    return found


def _billed(line: Sequence[Charge], amount: int, currency: str) -> list[Decimal]:
    """The line's amount over its charges. What rounding it took or gave goes to the largest of them."""
    scale = 10 ** (BILLED_DIGITS - minor_digits(currency))
    parts = [nearest((charge.cost or 0) * 10**BILLED_DIGITS, COST_UNIT) for charge in line]
    largest = max(range(len(line)), key=lambda place: abs(parts[place]))
    parts[largest] += amount * scale - sum(parts)
    return [Decimal(part).scaleb(-BILLED_DIGITS) for part in parts]


def _row(
    period: str, charge: Charge, billed: Decimal, ratio: Decimal | None, invoice: str, terms: Terms
) -> Row:
    who, start = charge.who, datetime.fromisoformat(charge.day).replace(tzinfo=UTC)
    month, next_month = _month(period)
    usage = charge.corrects is None
    cost = decimal(charge.cost or 0, COST_UNIT, QUANTITY_DIGITS)
    price = Decimal(charge.price or 0).scaleb(-PRICE_DIGITS).normalize() if usage else None
    sku, pool = f"energy-{charge.component}", "hosts" if charge.component == "host" else "gpus"
    correction = "" if usage else f", correction of {charge.corrects}"
    tags = {"api_key": who.api_key, "model": who.model, "user": who.user}
    return {
        "AllocatedMethodDetails": None if ratio is None else _details(charge, ratio),
        "AllocatedMethodId": None if ratio is None else METHODS[charge.component],
        "AllocatedResourceId": None if ratio is None else _resource(who),
        "AllocatedResourceName": None if ratio is None else who.project or "no project",
        "AllocatedTags": None if ratio is None else _json({k: v for k, v in tags.items() if v is not None}),
        "BilledCost": billed,
        "BillingAccountId": terms.issuer,
        "BillingAccountName": terms.issuer,
        "BillingCurrency": terms.currency,
        "BillingPeriodEnd": next_month,
        "BillingPeriodStart": month,
        "ChargeCategory": "Usage" if usage else "Adjustment",
        "ChargeClass": None if usage else "Correction",
        "ChargeDescription": f"{TITLES[charge.component]}, {charge.rate}{correction}",
        "ChargeFrequency": "Usage-Based",
        "ChargePeriodEnd": start + timedelta(days=1),
        "ChargePeriodStart": start,
        "ConsumedQuantity": joules(charge.energy_uj) if usage else None,
        "ConsumedUnit": "Joules" if usage else None,
        "ContractedCost": cost if usage else billed,
        "ContractedUnitPrice": price,
        "EffectiveCost": billed,
        "HostProviderName": terms.issuer,
        "InvoiceId": invoice,
        "InvoiceIssuerName": terms.issuer,
        "ListCost": cost if usage else billed,
        "ListUnitPrice": price,
        "PricingCategory": "Standard" if usage else None,
        "PricingQuantity": decimal(charge.energy_uj, UJ_PER_KWH, QUANTITY_DIGITS) if usage else None,
        "PricingUnit": "Kilowatt-Hours" if usage else None,
        "ProviderName": terms.issuer,
        "PublisherName": terms.issuer,
        "ResourceId": pool if usage else None,
        "ResourceName": f"All {pool}" if usage else None,
        "ResourceType": pool.capitalize() if usage else None,
        "ServiceCategory": "AI and Machine Learning",
        "ServiceName": "Inference",
        "ServiceProviderName": terms.issuer,
        "ServiceSubcategory": "Generative AI",
        "SkuId": sku if usage else None,
        "SkuMeter": TITLES[charge.component] if usage else None,
        "SkuPriceDetails": None,
        "SkuPriceId": f"{sku}:{charge.rate}:{price}" if usage else None,
        "SubAccountId": who.project,
        "SubAccountName": who.project,
        "Tags": _json({}),
        "x_ApiKey": who.api_key,
        "x_CarbonGrams": None if charge.location is None else grams(charge.location),
        "x_CarbonGramsMarket": None if charge.market is None else grams(charge.market),
        "x_Component": charge.component,
        "x_Corrects": charge.corrects,
        "x_EnergyJoules": joules(charge.energy_uj),
        "x_Model": who.model,
        "x_Requests": Decimal(charge.requests),
        "x_User": who.user,
    }


def _details(charge: Charge, ratio: Decimal) -> str:
    # Written by hand as json has no decimals, and a float could lose the last digit.
    return (
        f'{{"Elements":[{{"AllocatedRatio":{ratio:f},"UsageUnit":"Joules",'
        f'"UsageQuantity":{joules(charge.energy_uj):f}}}]}}'
    )


def _resource(who: Who) -> str:
    return _json([who.project, who.user, who.api_key, who.model])


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def _month(period: str) -> tuple[datetime, datetime]:
    start = datetime.fromisoformat(f"{period}-01").replace(tzinfo=UTC)
    return start, (start + timedelta(days=32)).replace(day=1)


def check(rows: Iterable[Row]) -> list[str]:
    """What of the rules does not hold: columns, nulls, and ratios, which must sum to 1 by origin charge."""
    faults: list[str] = []
    sums: dict[object, Decimal] = defaultdict(Decimal)
    names = [column.name for column in COLUMNS]
    for number, row in enumerate(rows, 1):
        if list(row) != names:
            faults.append(f"row {number}: not the columns of the data set")
            continue
        faults += [
            f"row {number}: {c.name} is null" for c in COLUMNS if not c.nullable and row[c.name] is None
        ]
        details = row["AllocatedMethodDetails"]
        if isinstance(details, str):
            elements = json.loads(details, parse_float=Decimal)["Elements"]
            origin = (row["ChargePeriodStart"], row["SkuPriceId"])
            sums[origin] += sum(Decimal(element["AllocatedRatio"]) for element in elements)
    faults += [f"ratios of {origin} sum to {total}" for origin, total in sums.items() if total != 1]
    return faults


def text(value: Value) -> str:
    """A value as it stands in a CSV file: no exponent, times in UTC, null as nothing."""
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%dT%H:%M:%SZ")
    return f"{value:f}" if isinstance(value, Decimal) else value
