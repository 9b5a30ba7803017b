"""Invoices from charges: lines that sum to the total in the smallest unit of the currency.

An invoice is made from a period's charges alone: the same charges give the same invoice, byte for byte.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import NamedTuple

import msgspec

from accounting.billing.charges import Charge, Component
from accounting.billing.day import ORDER, plus
from accounting.billing.terms import Terms
from accounting.billing.units import COST_UNIT, PRICE_DIGITS, minor_digits, rounded

TITLES: dict[Component, str] = {
    "gpu": "GPU energy",
    "host": "Host energy",
    "idle": "Idle energy",
    "unattributed": "Unattributed energy",
    "overhead": "Building overhead",
}
BY_MODEL = ("gpu", "host")
"""Components whose lines tell the model; the others are shared by all models alike."""


class LineKey(NamedTuple):
    """Charges that are one line of an invoice."""

    corrects: str | None
    component: Component
    model: str | None
    rate: str | None
    price: int | None


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """`price_per_kwh` and `amount` are None where no tariff fits."""

    title: str
    component: Component
    model: str | None
    rate: str | None
    price_per_kwh: Decimal | None
    requests: int
    energy_uj: int
    amount: Decimal | None
    corrects: str | None
    """The closed period of which this is an adjustment."""


class Invoice(msgspec.Struct, frozen=True, kw_only=True):
    """What one project owes for one period. `amount` is the sum of the lines that have one."""

    number: str
    issuer: str
    period: str
    """A UTC month, such as 2026-11."""
    project: str | None
    state: str
    """`final` once the period is closed, `draft` before."""
    currency: str | None
    lines: list[Line]
    energy_uj: int
    unpriced_uj: int
    """Of it what no tariff fits."""
    amount: Decimal | None
    location: int | None
    """Carbon of the energy by the location-based factor, in carbon units; None where a part is not known."""
    market: int | None


def line_key(charge: Charge) -> LineKey:
    model = charge.who.model if charge.component in BY_MODEL else None
    return LineKey(charge.corrects, charge.component, model, charge.rate, charge.price)


def by_project(charges: Iterable[Charge]) -> dict[str | None, list[Charge]]:
    """What is billed, by project, sorted; None is who named no project."""
    found: dict[str | None, list[Charge]] = defaultdict(list)
    for charge in charges:
        if charge.billed:
            found[charge.who.project].append(charge)
    return {
        project: found[project] for project in sorted(found, key=lambda name: (name is not None, name or ""))
    }


def lines_of(charges: Iterable[Charge]) -> dict[LineKey, list[Charge]]:
    """The charges of one project by line, in the order of the invoice."""
    found: dict[LineKey, list[Charge]] = defaultdict(list)
    for charge in charges:
        found[line_key(charge)].append(charge)
    return {key: found[key] for key in sorted(found, key=_order)}


def _order(key: LineKey) -> tuple[object, ...]:
    return (key.corrects or "", ORDER[key.component], key.model or "", key.rate or "", key.price or 0)


def amounts_of(lines: Sequence[Sequence[Charge]], terms: Terms) -> list[int | None]:
    """What each line comes to, in the smallest unit of the currency; together the rounded total."""
    if terms.currency is None:
        return [None] * len(lines)
    unit = COST_UNIT // 10 ** minor_digits(terms.currency)
    priced = [place for place, line in enumerate(lines) if line[0].price is not None]
    costs = [sum(charge.cost or 0 for charge in lines[place]) for place in priced]
    _, parts = rounded(costs, unit)
    amounts: list[int | None] = [None] * len(lines)
    for place, part in zip(priced, parts, strict=True):
        amounts[place] = part
    return amounts


def invoice_number(period: str, project: str | None) -> str:
    return f"{period}/{project}" if project is not None else f"{period}/"


def invoices(period: str, charges: Iterable[Charge], terms: Terms, *, closed: bool) -> list[Invoice]:
    """The invoices of a period, by project."""
    return [
        _invoice(period, project, of_project, terms, closed=closed)
        for project, of_project in by_project(charges).items()
    ]


def _invoice(
    period: str, project: str | None, charges: Sequence[Charge], terms: Terms, *, closed: bool
) -> Invoice:
    by_line = lines_of(charges)
    amounts = amounts_of(list(by_line.values()), terms)
    digits = 2 if terms.currency is None else minor_digits(terms.currency)
    lines = [
        Line(
            title=_title(key),
            component=key.component,
            model=key.model,
            rate=key.rate,
            price_per_kwh=None if key.price is None else Decimal(key.price).scaleb(-PRICE_DIGITS).normalize(),
            requests=sum(charge.requests for charge in of_line),
            energy_uj=sum(charge.energy_uj for charge in of_line),
            amount=None if amount is None else Decimal(amount).scaleb(-digits),
            corrects=key.corrects,
        )
        for (key, of_line), amount in zip(by_line.items(), amounts, strict=True)
    ]
    known = [line.amount for line in lines if line.amount is not None]
    return Invoice(
        number=invoice_number(period, project),
        issuer=terms.issuer,
        period=period,
        project=project,
        state="final" if closed else "draft",
        currency=terms.currency,
        lines=lines,
        energy_uj=sum(line.energy_uj for line in lines),
        unpriced_uj=sum(line.energy_uj for line in lines if line.amount is None),
        amount=sum(known, Decimal(0).scaleb(-digits)) if known else None,
        location=_sum(charge.location for charge in charges),
        market=_sum(charge.market for charge in charges),
    )


def _sum(parts: Iterable[int | None]) -> int | None:
    whole: int | None = 0
    for part in parts:
        whole = plus(whole, part)
    return whole


def _title(key: LineKey) -> str:
    title = TITLES[key.component]
    return title if key.corrects is None else f"Adjustment of {key.corrects}: {title}"


def adjustments(period: str, billed: Iterable[Charge], now: Iterable[Charge]) -> list[Charge]:
    """What a closed `period` turned out to be off by: `now` less all that was `billed` of it so far.

    Charges that correct `period`, to go to a later one. Energies, requests and costs may be below 0.
    """
    found: dict[tuple[object, ...], tuple[Charge, list[Charge], list[Charge]]] = {}
    for place, charges in ((1, billed), (2, now)):
        for charge in charges:
            key = (charge.day, charge.who, charge.component, charge.billed, charge.rate, charge.price)
            entry = found.setdefault(key, (charge, [], []))
            entry[place].append(charge)  # type: ignore[union-attr]
    differences = [_difference(period, *entry) for entry in found.values()]
    return [charge for charge in differences if charge.energy_uj or charge.requests]


def _difference(period: str, one: Charge, before: Sequence[Charge], after: Sequence[Charge]) -> Charge:
    return msgspec.structs.replace(
        one,
        corrects=period,
        energy_uj=sum(c.energy_uj for c in after) - sum(c.energy_uj for c in before),
        requests=sum(c.requests for c in after) - sum(c.requests for c in before),
        location=_less([c.location for c in after], [c.location for c in before]),
        market=_less([c.market for c in after], [c.market for c in before]),
        embodied=None,
    )


def _less(after: Sequence[int | None], before: Sequence[int | None]) -> int | None:
    known = [part for part in (*after, *before) if part is not None]
    if len(known) < len(after) + len(before):
        return None
    return sum(known[: len(after)]) - sum(known[len(after) :])
