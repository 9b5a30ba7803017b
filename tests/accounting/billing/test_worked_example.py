"""docs/billing.md says what comes out: every figure of its worked example is computed here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path

import pytest
from click.testing import CliRunner

from accounting.billing.bills import Month
from accounting.billing.charges import Charge
from accounting.billing.focus import Row, check, focus_rows, text
from accounting.billing.invoice import invoices
from accounting.billing.units import joules, money
from accounting.records import BookEntry
from accounting.store.engine import connect
from joulegate.cli import main
from proxy.billing import billing_of
from tests.accounting.billing.example import OUTPUTS, PAGE, block, settings, store

PROSE = " ".join(PAGE.split())


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("example")
    store(path)
    nobody = 'backends: [{id: a, url: "http://127.0.0.1:9"}]\n'
    (path / "joulegate.yaml").write_text(f"{nobody}data_dir: {path}\n{block('yaml')}")
    return path


@pytest.fixture(scope="module")
def month(directory: Path) -> Iterator[Month]:
    engine = connect(f"sqlite:///{directory}/joulegate.db")
    yield billing_of(settings(), engine).bills.month("2026-11")
    engine.dispose()


def invoked(directory: Path, *words: str) -> str:
    done = CliRunner().invoke(main, [*words, "--config", str(directory / "joulegate.yaml")])
    assert done.exit_code == 0, done.output
    return done.stdout


def shown(energy_uj: int) -> str:
    return f"{joules(energy_uj):,f}"


def total(charges: list[Charge], **wanted: object) -> int:
    return sum(c.energy_uj for c in charges if all(getattr(c, name) == w for name, w in wanted.items()))


def test_the_books_on_the_page_are_the_example_s() -> None:
    books = [entry for entry in OUTPUTS if isinstance(entry, BookEntry)]
    for entry in books:
        assert f"| {shown(entry.measured_uj or 0)} |" in PAGE
    names = ("measured_uj", "requests_uj", "idle_uj", "unobserved_uj")
    sums = [shown(sum(getattr(entry, name) for entry in books)) for name in names]
    assert f"| **day** | {' | '.join(f'**{each}**' for each in sums)} |" in PAGE


def test_every_step_is_on_the_page(month: Month) -> None:
    # By tariff, lab has one rate; its idle energy of the peak is what web's peak leaves of it.
    idle = [c for c in month.charges if c.component == "idle"]
    web = {(c.who.model, c.rate): shown(c.energy_uj) for c in idle if c.who.project == "web"}
    for figure in web.values():
        assert figure in PAGE
    peak_uj = total(idle, rate="standard/peak")
    lab_peak_uj = 360_000_000_000 - peak_uj
    lab_uj = sum(c.energy_uj for c in idle if c.who.project == "lab")
    assert f"lab with {shown(lab_uj - lab_peak_uj)}," in PROSE
    assert f"the peak with {shown(lab_peak_uj)}," in PROSE
    assert shown(total(month.charges, component="overhead")) in PAGE
    billed_uj, borne_uj = total(month.charges, billed=True), total(month.charges, billed=False)
    assert borne_uj == 216_000_000_000
    assert f"projects {shown(billed_uj)} J and" in PROSE
    assert f"together {shown(billed_uj + borne_uj)} J" in PROSE
    measured = sum(entry.measured_uj or 0 for entry in OUTPUTS if isinstance(entry, BookEntry))
    assert abs(Decimal(measured) * Decimal("1.2") - (billed_uj + borne_uj)) <= Decimal("0.5")
    dearest = [c for c in month.charges if c.component == "overhead" and c.rate == "standard/peak"]
    assert f"({money(sum(c.cost or 0 for c in dearest), 6)})" in PROSE
    web_cost = sum(c.cost or 0 for c in month.charges if c.who.project == "web")
    assert f"web owes {money(web_cost, 6)} EUR" in PROSE


@pytest.mark.parametrize("project", [None, "lab", "web"])
def test_the_invoices_on_the_page_are_what_is_printed(directory: Path, project: str | None) -> None:
    more = () if project is None else ("--project", project)
    assert f"```\n{invoked(directory, 'invoice', '--month', '2026-11', *more)}```" in PAGE


def test_the_focus_rows_on_the_page_are_those_exported_and_add_up(month: Month) -> None:
    rows = list(focus_rows("2026-11", month.charges, month.terms))
    assert check(rows) == []
    assert focus_table(rows) in PAGE
    energy = sum(row["x_EnergyJoules"] for row in rows)  # type: ignore[misc]
    assert energy == joules(total(month.charges, billed=True))
    drawn = {f"2026-11/{p}": a for p, a in (("lab", Decimal("0.62")), ("web", Decimal("0.51")))}
    for invoice in invoices("2026-11", month.charges, month.terms, closed=False):
        billed = sum(row["BilledCost"] for row in rows if row["InvoiceId"] == invoice.number)  # type: ignore[misc]
        assert billed == invoice.amount == drawn[invoice.number]


def focus_table(rows: Sequence[Row]) -> str:
    names = ("SubAccountId", "x_Model", "SkuPriceId", "x_EnergyJoules", "BilledCost")
    lines = [
        f"| {' | '.join(f'`{name}`' for name in (*names, 'AllocatedRatio'))} |",
        "|---|---|---|---:|---:|---:|",
    ]
    for row in rows:
        ratio = str(row["AllocatedMethodDetails"]).split('"AllocatedRatio":')[1].split(",")[0]
        lines.append(f"| {' | '.join(text(row[name]) for name in names)} | {ratio} |")
    return "\n".join(lines)
