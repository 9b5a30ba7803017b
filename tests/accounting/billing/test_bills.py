"""Months from a real store: closed ones stay, and what comes late goes to the next."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest
from alembic import command

from accounting.billing.bills import BillingError, Bills
from accounting.billing.carbon import Intensity
from accounting.billing.charges import Charge
from accounting.billing.closing import Closings
from accounting.billing.invoice import invoices
from accounting.billing.source import Source, month_us
from accounting.billing.tariff import Tariff, Tariffs
from accounting.billing.terms import Terms
from accounting.records import BookEntry, Output, RequestRecord
from accounting.store.engine import StoreError, alembic_config, migrate, writing
from accounting.store.queries import StoreReader
from accounting.store.rollups import UsageReader
from accounting.store.writer import StoreWriter
from tests.accounting.store.databases import Database
from tests.accounting.store.examples import book, correction, record

TARIFF = Tariff(name="standard", price=300_000_000)
TERMS = Terms(currency="EUR", tariffs=Tariffs(tariffs=(TARIFF,)), idle="by_use")
OCTOBER_US, NOVEMBER_US = month_us("2026-10")
DECEMBER_US = month_us("2026-11")[1]
KWH_UJ = 3_600_000_000_000


def store(database: Database, *outputs: Output) -> None:
    writer = StoreWriter(database.engine, "journal-1")
    writer.put(list(outputs), segment=1)
    assert writer.close(timeout_s=20)


def of(number: int, t_us: int, tenant: str, energy_uj: int) -> RequestRecord:
    return record(
        number, tenant=tenant, started_us=t_us, finished_us=t_us, energy_uj=energy_uj, prefill_uj=0,
        decode_uj=energy_uj, shares=[], host_uj=None,
    )  # fmt: skip


def bills(database: Database, terms: Terms = TERMS) -> Bills:
    source = Source(UsageReader(database.engine), StoreReader(database.engine))
    return Bills(source, Closings(database.engine), terms, Intensity())


def energies(charges: Sequence[Charge]) -> dict[tuple[str | None, str, str | None], int]:
    return {(c.who.project, c.component, c.corrects): c.energy_uj for c in charges}


def idle(t_us: int, energy_uj: int, gpu: str = "GPU-a") -> BookEntry:
    return book(
        1, gpu, t0_us=t_us, t1_us=t_us + 500_000, measured_uj=energy_uj, requests_uj=0, idle_uj=energy_uj,
        unobserved_uj=0, unmeasured_uj=0,
    )  # fmt: skip


def test_a_month_is_billed_from_its_own_hours(database: Database) -> None:
    store(
        database,
        of(1, OCTOBER_US - 1, "lab", 1),
        of(2, OCTOBER_US, "lab", 3 * KWH_UJ),
        of(3, NOVEMBER_US - 1, "web", KWH_UJ),
        of(4, NOVEMBER_US, "web", 1),
        idle(OCTOBER_US, KWH_UJ),
        idle(NOVEMBER_US - 600_000_000, KWH_UJ, "GPU-b"),
        idle(NOVEMBER_US, 1),
    )
    month = bills(database).month("2026-10")
    assert not month.closed
    assert energies(month.charges) == {
        ("lab", "gpu", None): 3 * KWH_UJ,
        ("web", "gpu", None): KWH_UJ,
        ("lab", "idle", None): KWH_UJ,  # of the first day, when it was the only one
        ("web", "idle", None): KWH_UJ,
    }
    drawn = invoices("2026-10", month.charges, month.terms, closed=False)
    assert [(invoice.number, str(invoice.amount)) for invoice in drawn] == [
        ("2026-10/lab", "1.20"), ("2026-10/web", "0.60")
    ]  # fmt: skip


def test_a_closed_month_stays_and_what_comes_late_goes_to_the_next(database: Database) -> None:
    store(database, of(1, OCTOBER_US + 5, "lab", 2 * KWH_UJ), idle(OCTOBER_US, KWH_UJ))
    closed = bills(database).close("2026-10", NOVEMBER_US)
    # Then a request of another project turns up and takes half of the idle energy with it; and prices rise.
    store(database, of(2, OCTOBER_US + 9, "web", 2 * KWH_UJ), of(3, NOVEMBER_US, "lab", KWH_UJ))
    dearer = msgspec.structs.replace(TERMS, tariffs=Tariffs(tariffs=(Tariff(name="dear", price=10**9),)))
    again = bills(database, dearer).month("2026-10")
    assert (again.charges, again.terms, again.closed) == (closed.charges, TERMS, True)
    november = bills(database, dearer).month("2026-11")
    assert energies(november.charges) == {
        ("lab", "gpu", None): KWH_UJ,
        ("lab", "idle", "2026-10"): -KWH_UJ // 2,
        ("web", "gpu", "2026-10"): 2 * KWH_UJ,
        ("web", "idle", "2026-10"): KWH_UJ // 2,
    }
    lab, web = invoices("2026-11", november.charges, november.terms, closed=False)
    assert [(line.title, line.requests, str(line.amount)) for line in lab.lines] == [
        ("GPU energy", 1, "1.00"),
        ("Adjustment of 2026-10: Idle energy", 0, "-0.15"),  # at the price of then
    ]
    assert (str(lab.amount), str(web.amount)) == ("0.85", "0.75")
    # Once that is billed, too, nothing is left to correct.
    bills(database, dearer).close("2026-11", DECEMBER_US)
    assert bills(database, dearer).month("2026-12").charges == []


def test_a_correction_of_a_request_is_late_as_well(database: Database) -> None:
    start_us = OCTOBER_US - 10_000_000
    known = of(1, start_us, "lab", 9_000_001)
    with_shares = record(1, tenant="lab", started_us=start_us, finished_us=start_us)
    assert with_shares.energy_uj == known.energy_uj
    store(database, with_shares)
    bills(database).close("2026-09", OCTOBER_US)
    store(database, correction(1, corrected_us=OCTOBER_US + 5))
    month = bills(database).month("2026-10")
    assert energies(month.charges) == {("lab", "gpu", "2026-09"): correction(1).energy_uj}


def test_months_are_closed_in_turn_and_when_they_are_over(database: Database) -> None:
    store(database, of(1, OCTOBER_US, "lab", KWH_UJ))
    found = bills(database)
    with pytest.raises(BillingError, match="2026-10 is not over yet"):
        found.close("2026-10", NOVEMBER_US - 1)
    found.close("2026-10", NOVEMBER_US)
    with pytest.raises(BillingError, match="2026-10 is closed already"):
        found.close("2026-10", NOVEMBER_US)
    with pytest.raises(BillingError, match="2026-11 has to be closed before 2026-12"):
        found.close("2026-12", 2 * DECEMBER_US)
    with pytest.raises(BillingError, match="'2026-13' is no month"):
        found.month("2026-13")


def test_two_who_close_a_month_at_once_do_not_both_succeed(database: Database) -> None:
    closings = Closings(database.engine)
    closings.close("2026-10", TERMS, [], NOVEMBER_US)
    with pytest.raises(StoreError, match="2026-10 is closed already"):
        closings.close("2026-10", TERMS, [], NOVEMBER_US)
    assert [(entry.period, entry.terms) for entry in closings.all()] == [("2026-10", TERMS)]


def test_going_down_forgets_what_was_billed_and_going_up_again_works(database: Database) -> None:
    store(database, of(1, OCTOBER_US, "lab", KWH_UJ))
    before = bills(database).close("2026-10", NOVEMBER_US)
    with writing(database.engine) as connection, connection.begin():
        config = alembic_config()
        config.attributes["connection"] = connection
        command.downgrade(config, "0004")
    migrate(database.engine)
    assert Closings(database.engine).all() == []
    assert bills(database).close("2026-10", NOVEMBER_US) == before
