"""The report: who used what, where the energy went, and what it costs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal

from accounting.billing.carbon import sci_g
from accounting.billing.charges import Charge
from accounting.billing.day import plus
from accounting.billing.invoice import TITLES
from accounting.billing.source import day_name
from accounting.billing.terms import Terms
from accounting.billing.units import decimal, grams, joules, money
from accounting.billing.usage import Group, Key, Sums
from accounting.store.queries import Books, BooksRow
from joulegate.reporting.invoice import kwh
from joulegate.reporting.table import Cell, Column, Document, Table

Found = Mapping[int, Mapping[Key, Sums]]
NAMES: dict[Group, str] = {
    "project_id": "project",
    "model": "model",
    "api_key_id": "key",
    "user_id": "user",
    "size": "size",
    "source": "source",
}
GPU_TITLE, HOST_TITLE = "Where the GPUs' energy went", "Where the hosts' energy went"


def report_document(
    period: str,
    found: Found,
    groups: Sequence[Group],
    books: Books,
    charges: Sequence[Charge],
    terms: Terms,
    *,
    by_day: bool,
) -> Document:
    tables = [_usage(found, groups, terms, by_day=by_day)]
    if terms.currency is not None:
        tables.append(_costs(charges, terms.currency))
    tables += [
        _books(title, total, key)
        for title, total, key in ((GPU_TITLE, books.total, "gpus"), (HOST_TITLE, books.host_total, "hosts"))
        if total is not None
    ]
    return Document("joulegate report", [("Period", period)], tables, list(_notes(found, books)))


def columns_of(groups: Sequence[Group], currency: str | None, *, by_day: bool) -> list[Column]:
    """Of the table of usage."""
    return [
        *([Column("day")] if by_day else []),
        *(Column(NAMES[group], folds=True) for group in groups),
        Column("requests"),
        Column("tokens in", rank=4, spare="nothing"),
        Column("tokens out", rank=3, spare="nothing"),
        Column("images", rank=11, spare="nothing"),
        Column("videos", rank=12, spare="nothing"),
        Column("energy", "kJ", digits=3, shift=3, key="energy_joules"),
        Column("per output token", "J", rank=2, digits=3, key="joules_per_output_token", spare="unknown"),
        Column("prefill", "kJ", rank=8, digits=3, shift=3, key="prefill_joules", spare="unknown"),
        Column("decode", "kJ", rank=8, digits=3, shift=3, key="decode_joules", spare="unknown"),
        Column("hosts", "kJ", rank=9, digits=3, shift=3, key="host_joules", spare="unknown"),
        Column("cost", currency or "", rank=1, digits=4, key="cost", spare="unknown"),
        Column("CO2e, location", "g", rank=5, digits=3, key="carbon_grams_location", spare="unknown"),
        Column("CO2e, market", "g", rank=6, digits=3, key="carbon_grams_market", spare="unknown"),
        Column("SCI per request", "g", rank=7, digits=4, key="sci_grams_per_request", spare="unknown"),
        Column(
            "SCI per 1,000 tokens", "g", rank=10, digits=4, key="sci_grams_per_1k_tokens", spare="unknown"
        ),
        Column("not measured", "requests", rank=13, key="requests_without_energy", spare="nothing"),
    ]


def _usage(found: Found, groups: Sequence[Group], terms: Terms, *, by_day: bool) -> Table:
    currency = terms.currency
    columns = columns_of(groups, currency, by_day=by_day)
    rows: list[list[Cell]] = []
    whole = Sums()
    for t_us, by_key in found.items():
        for key, sums in by_key.items():
            group = [("(none)" if part is None else part) for part in key]
            rows.append([*([day_name(t_us)] if by_day else []), *group, *_figures(sums)])
            whole.add(sums)
    blank: list[Cell] = [None] * (len(groups) + by_day)
    if blank:
        blank[0] = "Total"
    return Table("Usage", columns, rows, [*blank, *_figures(whole)] if blank else None, key="usage")


def _figures(sums: Sums) -> list[Cell]:
    known = sums.with_energy > 0
    location = sums.location if known else None
    tokens = plus(sums.prompt_tokens, sums.completion_tokens or 0)
    per_token = sci_g(location, sums.embodied, tokens or 0)
    energy_uj, out = sums.energy_uj, sums.completion_tokens
    return [
        sums.requests,
        sums.prompt_tokens,
        out,
        sums.images,
        sums.videos,
        _j(energy_uj),
        None if energy_uj is None or not out else decimal(energy_uj, 10**6 * out, 6),
        _j(sums.prefill_uj),
        _j(sums.decode_uj),
        _j(sums.host_uj),
        None if sums.cost is None or not known else money(sums.cost),
        None if location is None else grams(location),
        None if sums.market is None or not known else grams(sums.market),
        _g(sci_g(location, sums.embodied, sums.requests)),
        _g(None if per_token is None else 1000 * per_token),
        sums.requests - sums.with_energy,
    ]


def _j(energy_uj: int | None) -> Decimal | None:
    return None if energy_uj is None else joules(energy_uj)


def _g(value: float | None) -> Decimal | None:
    return None if value is None else Decimal(f"{value:.9f}")


def _costs(charges: Sequence[Charge], currency: str) -> Table:
    columns = (
        Column("what", folds=True),
        Column("energy", "kWh", digits=6, key="energy_kwh"),
        Column("energy", "J", rank=1, key="energy_joules"),
        Column("cost", currency, digits=4, key="cost"),
        Column("borne by the operator", "kWh", digits=6, key="operator_kwh"),
    )
    rows: list[list[Cell]] = []
    for component, title in TITLES.items():
        of_it = [charge for charge in charges if charge.component == component]
        if of_it:
            rows.append([title, *_sums_of(of_it)])
    return Table("Costs", columns, rows, ["Total", *_sums_of(charges)], key="costs")


def _sums_of(charges: Sequence[Charge]) -> list[Cell]:
    billed = [charge for charge in charges if charge.billed]
    costs = [charge.cost for charge in billed if charge.cost is not None]
    energy_uj = sum(charge.energy_uj for charge in billed)
    borne_uj = sum(charge.energy_uj for charge in charges if not charge.billed)
    return [kwh(energy_uj), joules(energy_uj), money(sum(costs)) if costs else None, kwh(borne_uj)]


def _books(title: str, total: BooksRow, key: str) -> Table:
    columns = (
        Column("what"),
        Column("energy", "kWh", digits=6, key="energy_kwh"),
        Column("energy", "J", rank=1, key="energy_joules"),
        Column("part", "%", digits=1, key="percent"),
    )
    parts = {
        "requests": total.requests_uj,
        "idle": total.idle_uj,
        "unobserved": total.unobserved_uj,
        "unmeasured": total.unmeasured_uj,
    }
    whole = total.measured_uj or 0
    rows: list[list[Cell]] = [
        [name, kwh(part), joules(part), decimal(100 * part, whole, 3) if whole else None]
        for name, part in parts.items()
    ]
    return Table(title, columns, rows, ["measured", kwh(whole), joules(whole), None], key=key)


def _notes(found: Found, books: Books) -> Iterator[str]:
    if books.total is not None and not books.total.balanced:
        yield "The books do NOT balance: joulegate audit says where."
    unknown = sum(sums.requests - sums.with_energy for by_key in found.values() for sums in by_key.values())
    if unknown:
        were = "request was" if unknown == 1 else "requests were"
        yield f"{unknown:,} {were} not measured: the energy is that of the others."
    if not found:
        yield "No requests in this time."
