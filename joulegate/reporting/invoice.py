"""Invoices as documents."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from accounting.billing.charges import Charge
from accounting.billing.invoice import TITLES, Invoice
from accounting.billing.terms import Terms
from accounting.billing.units import UJ_PER_KWH, decimal, grams, joules
from joulegate.reporting.table import Column, Document, Table

KWH_DIGITS = 6
"""Digits that people see: 1e-6 kWh are 3.6 J."""


def invoice_document(invoice: Invoice) -> Document:
    currency = invoice.currency or "no currency"
    columns = (
        Column("item", folds=True),
        Column("model", folds=True),
        Column("rate", folds=True),
        Column("price", f"{currency}/kWh", key="price_per_kwh"),
        Column("requests", rank=3),
        Column("energy", "kWh", digits=KWH_DIGITS, key="energy_kwh"),
        Column("energy", "J", rank=4, key="energy_joules"),
        Column("amount", currency, key="amount"),
    )
    rows = [
        (
            line.title,
            line.model,
            line.rate,
            line.price_per_kwh,
            line.requests if line.component == "gpu" else None,
            kwh(line.energy_uj),
            joules(line.energy_uj),
            line.amount,
        )
        for line in invoice.lines
    ]
    total = (
        "Total",
        None,
        None,
        None,
        None,
        kwh(invoice.energy_uj),
        joules(invoice.energy_uj),
        invoice.amount,
    )
    notes = []
    if invoice.state == "draft":
        notes.append("This month is still open: a draft, whose figures can change.")
    if invoice.unpriced_uj:
        notes.append(f"No tariff fits {joules(invoice.unpriced_uj):,f} J of it, which are not in the amount.")
    for kind, carbon in (("location", invoice.location), ("market", invoice.market)):
        if carbon is not None:
            notes.append(f"Carbon, {kind}-based: {grams(carbon, 1):,f} g CO2e.")
    facts = [
        ("From", invoice.issuer),
        ("For", invoice.project if invoice.project is not None else "no project"),
        ("Period", f"{invoice.period} (UTC)"),
        ("State", invoice.state),
    ]
    title = f"Invoice {invoice.number}" if invoice.state == "final" else f"Draft invoice {invoice.number}"
    return Document(title, facts, [Table("Energy", columns, rows, total, key="lines")], notes)


def overview_document(
    period: str, invoices: Sequence[Invoice], charges: Sequence[Charge], terms: Terms
) -> Document:
    """All invoices of a period, and what the operator bears."""
    currency = terms.currency or "no currency"
    columns = (
        Column("invoice", folds=True),
        Column("project", folds=True, rank=2),
        Column("state", rank=3),
        Column("requests", rank=1),
        Column("energy", "kWh", digits=KWH_DIGITS, key="energy_kwh"),
        Column("energy", "J", rank=4, key="energy_joules"),
        Column("amount", currency, key="amount"),
    )
    rows = [
        (
            invoice.number,
            invoice.project,
            invoice.state,
            sum(line.requests for line in invoice.lines),
            kwh(invoice.energy_uj),
            joules(invoice.energy_uj),
            invoice.amount,
        )
        for invoice in invoices
    ]
    known = [invoice.amount for invoice in invoices if invoice.amount is not None]
    energy_uj = sum(invoice.energy_uj for invoice in invoices)
    total = (
        "Total",
        None,
        None,
        None,
        kwh(energy_uj),
        joules(energy_uj),
        sum(known, Decimal(0)) if known else None,
    )
    tables = [Table("Invoices", columns, rows, total, key="invoices")]
    borne = [charge for charge in charges if not charge.billed]
    if borne:
        tables.append(_borne(borne))
    notes = [] if known or not rows else ["Nothing has a price: set billing.currency and billing.tariffs."]
    return Document(
        f"Invoices of {period}", [("From", terms.issuer), ("Period", f"{period} (UTC)")], tables, notes
    )


def _borne(charges: Sequence[Charge]) -> Table:
    columns = (
        Column("what"),
        Column("energy", "kWh", digits=KWH_DIGITS, key="energy_kwh"),
        Column("energy", "J", rank=1, key="energy_joules"),
    )
    sums = {title: sum(c.energy_uj for c in charges if c.component == name) for name, title in TITLES.items()}
    rows = [(title, kwh(energy_uj), joules(energy_uj)) for title, energy_uj in sums.items() if energy_uj]
    whole = sum(sums.values())
    return Table("Borne by the operator", columns, rows, ("Total", kwh(whole), joules(whole)), key="operator")


def kwh(energy_uj: int) -> Decimal:
    """To 1e-15 kWh, which is 0.004 uJ."""
    return decimal(energy_uj, UJ_PER_KWH, 15)
