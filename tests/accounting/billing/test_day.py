"""One day's charges: everything that was measured is in exactly one, whatever the terms."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from accounting.billing.carbon import Factors, Intensity
from accounting.billing.charges import Charge, Shared, Use, Who
from accounting.billing.day import charges_of_day
from accounting.billing.source import day_us
from accounting.billing.tariff import HOUR_US, Tariff, Tariffs, Window
from accounting.billing.terms import Terms
from accounting.billing.units import nearest

DAY = "2026-11-23"
NOON_US = day_us(DAY) + 12 * HOUR_US
PEAK = Window(name="peak", days=tuple(range(7)), from_minute=720, to_minute=780, price=400_000_000)
TARIFFS = Tariffs(
    tariffs=(
        Tariff(name="lab", price=100_000_000, projects=("lab",)),
        Tariff(name="standard", price=300_000_000, windows=(PEAK,), projects=("*",)),
    )
)
TERMS = Terms(currency="EUR", tariffs=TARIFFS)
GRID = Intensity(Factors(380_000_000, 0))

hours = st.integers(0, 23).map(lambda hour: day_us(DAY) + hour * HOUR_US)
energies = st.one_of(st.just(0), st.integers(0, 10**13))
who = st.builds(
    Who,
    st.sampled_from([None, "lab", "web", "ops"]),
    st.none(),
    st.sampled_from([None, "key-1", "key-2"]),
    st.sampled_from(["llama", "qwen"]),
)
uses = st.lists(
    st.builds(Use, hours, who, st.integers(1, 9), st.none() | energies, st.none() | energies), max_size=8
)
books = st.lists(
    st.builds(Shared, hours, st.sampled_from(["gpu", "host"]), energies, energies, st.just(HOUR_US)),
    max_size=6,
)
bearers = st.sampled_from(["operator", "by_use", "by_reservation"])
terms = st.builds(
    Terms,
    currency=st.sampled_from([None, "EUR"]),
    tariffs=st.just(TARIFFS),
    idle=bearers,
    unattributed=bearers,
    overhead=bearers,
    pue=st.none() | st.integers(1_000_000, 2_500_000),
    host=st.booleans(),
    reservations=st.sampled_from([{}, {"lab": 250_000}, {"web": 400_000, "ops": 600_000}]),
    embodied=st.none() | st.integers(0, 10**8),
)


def energy(charges: Sequence[Charge], **wanted: object) -> int:
    return sum(c.energy_uj for c in charges if all(getattr(c, name) == w for name, w in wanted.items()))


@settings(deadline=None, max_examples=100)
@given(uses, books, terms)
def test_every_microjoule_is_in_exactly_one_charge(
    uses: list[Use], books: list[Shared], terms: Terms
) -> None:
    charges = charges_of_day(DAY, uses, books, terms, GRID)
    of_gpus, of_hosts = sum(u.energy_uj or 0 for u in uses), sum(u.host_uj or 0 for u in uses)
    idle, unattributed = sum(b.idle_uj for b in books), sum(b.unattributed_uj for b in books)
    measured = of_gpus + of_hosts + idle + unattributed
    assert energy(charges, component="gpu") == of_gpus
    assert energy(charges, component="host") == of_hosts
    assert energy(charges, component="idle") == idle
    assert energy(charges, component="unattributed") == unattributed
    more = 0 if terms.pue is None else terms.pue - 1_000_000
    assert energy(charges, component="overhead") == nearest(measured * more, 1_000_000)
    assert sum(c.requests for c in charges) == sum(u.requests for u in uses)
    assert all(c.market == 0 for c in charges)
    located = sum(c.location or 0 for c in charges)
    assert abs(located - nearest(measured * 380_000_000 * (1_000_000 + more), 1_000_000)) <= 24
    if terms.embodied is not None:
        device_us = sum(b.device_us for b in books if b.boundary == "gpu")
        assert sum(c.embodied or 0 for c in charges) == device_us * terms.embodied * 1000


@settings(deadline=None, max_examples=50)
@given(uses, books, terms, st.randoms(use_true_random=False))
def test_the_order_of_what_comes_in_changes_nothing(
    uses: list[Use], books: list[Shared], terms: Terms, random: Random
) -> None:
    before = charges_of_day(DAY, uses, books, terms, GRID)
    random.shuffle(uses)
    random.shuffle(books)
    assert charges_of_day(DAY, uses, books, terms, GRID) == before


def test_idle_shared_by_use_follows_the_energy_of_the_day() -> None:
    lab, web = Who("lab", None, "k", "llama"), Who("web", None, "k", "llama")
    uses = [Use(NOON_US, lab, 1, 300), Use(NOON_US + HOUR_US, web, 1, 100)]
    books = [Shared(NOON_US - 5 * HOUR_US, "gpu", 1000, 0)]  # while nobody ran anything
    charges = charges_of_day(DAY, uses, books, msgspec.structs.replace(TERMS, idle="by_use"), GRID)
    assert energy(charges, component="idle", who=lab) == 750
    assert energy(charges, component="idle", who=web) == 250
    assert {c.rate for c in charges if c.component == "idle"} == {"lab", "standard"}


def test_idle_shared_by_reservation_needs_no_use() -> None:
    agreed = msgspec.structs.replace(
        TERMS, idle="by_reservation", reservations={"lab": 250_000, "web": 500_000}
    )
    charges = charges_of_day(DAY, [], [Shared(NOON_US, "gpu", 1001, 0)], agreed, GRID)
    assert [(c.who.project, c.billed, c.energy_uj) for c in charges] == [
        ("lab", True, 250), ("web", True, 501), (None, False, 250)
    ]  # fmt: skip


def test_on_a_day_without_use_the_operator_bears_what_is_shared_by_use() -> None:
    agreed = msgspec.structs.replace(TERMS, idle="by_use")
    charges = charges_of_day(DAY, [], [Shared(NOON_US, "gpu", 7, 0)], agreed, GRID)
    assert [(c.billed, c.energy_uj, c.cost) for c in charges] == [(False, 7, None)]


def test_hours_at_different_prices_are_different_charges() -> None:
    web = Who("web")
    uses = [
        Use(NOON_US, web, 2, 10),
        Use(NOON_US + HOUR_US, web, 3, 20),
        Use(NOON_US + 2 * HOUR_US, web, 4, 30),
    ]
    charges = charges_of_day(DAY, uses, [], TERMS, GRID)
    assert [(c.rate, c.energy_uj, c.requests, c.cost) for c in charges] == [
        ("standard", 50, 7, 50 * 300_000_000),
        ("standard/peak", 10, 2, 10 * 400_000_000),
    ]


def test_what_no_tariff_fits_has_no_cost_and_is_not_free() -> None:
    (charge,) = charges_of_day(DAY, [Use(NOON_US, Who(), 1, 10)], [], TERMS, GRID)
    assert (charge.billed, charge.rate, charge.cost) == (True, None, None)


def test_carbon_is_unknown_where_its_factor_is() -> None:
    series = Intensity(Factors(None, 0), [(NOON_US, Factors(500_000_000, None))])
    uses = [Use(NOON_US - HOUR_US, Who("web"), 1, 5), Use(NOON_US, Who("lab"), 1, 5)]
    charges = charges_of_day(DAY, uses, [], TERMS, series)
    assert {c.who.project: (c.location, c.market) for c in charges} == {
        "web": (None, 0),
        "lab": (5 * 500_000_000, 0),
    }


def test_an_unmeasured_request_is_counted_and_costs_nothing() -> None:
    (charge,) = charges_of_day(DAY, [Use(NOON_US, Who("web"), 3, None)], [], TERMS, GRID)
    assert (charge.requests, charge.energy_uj) == (3, 0)
