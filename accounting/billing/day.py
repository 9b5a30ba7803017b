"""One UTC day's energy as charges: who bears which microjoules, at which rate, with how much carbon.

Everything that was measured, and the building's overhead, is in exactly one charge: the sum over the charges
of a day is the sum of what came in. docs/billing.md has the rules in words and a worked example.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from accounting.billing.carbon import Intensity
from accounting.billing.charges import NOBODY, Charge, Component, Shared, Use, Who
from accounting.billing.tariff import Rate
from accounting.billing.terms import ONE, Bearer, Terms
from accounting.billing.units import nearest, share
from accounting.records import Boundary

EMBODIED_UNITS = 1000
"""Carbon units in 1 us at 1 ug per hour: 3.6e18 of them are a gram, 3.6e9 us an hour, 1e6 ug a gram."""


@dataclass(slots=True)
class _Sum:
    energy_uj: int = 0
    location: int | None = 0
    market: int | None = 0
    requests: int = 0
    embodied: int | None = None

    def add(self, energy_uj: int, location: int | None, market: int | None) -> None:
        self.energy_uj += energy_uj
        self.location = plus(self.location, location)
        self.market = plus(self.market, market)


def plus(one: int | None, other: int | None) -> int | None:
    """A sum of which a part is not known is not known."""
    return None if one is None or other is None else one + other


class _Key(NamedTuple):
    slot: int
    component: Component
    who: Who
    billed: bool


class _Party(NamedTuple):
    who: Who
    billed: bool
    weight: int


OPERATOR = _Party(NOBODY, False, 1)


@dataclass(slots=True)
class _Day:
    """`slots` are hours in which all tariffs have the same rates: nothing finer need be kept apart."""

    terms: Terms
    intensity: Intensity
    slots: dict[tuple[Rate, ...], int] = field(default_factory=dict)
    rates: list[Mapping[str, Rate]] = field(default_factory=list)
    sums: dict[_Key, _Sum] = field(default_factory=lambda: defaultdict(_Sum))
    used: dict[Boundary, dict[Who, int]] = field(
        default_factory=lambda: {"gpu": defaultdict(int), "host": defaultdict(int)}
    )
    device_us: int = 0

    def slot(self, hour_us: int) -> int:
        rates = self.terms.tariffs.rates(hour_us)
        place = self.slots.setdefault(tuple(rates.values()), len(self.slots))
        if place == len(self.rates):
            self.rates.append(rates)
        return place

    def weighted(self, hour_us: int, energy_uj: int) -> tuple[int, int | None, int | None]:
        """Energy, and its carbon by location and by market."""
        location, market = self.intensity.at(hour_us)
        return (
            energy_uj,
            None if location is None else energy_uj * location,
            None if market is None else energy_uj * market,
        )

    def rate(self, key: _Key) -> Rate | None:
        if not key.billed or self.terms.currency is None:
            return None
        tariff = self.terms.tariffs.tariff_of(key.who.project, key.who.model)
        return None if tariff is None else self.rates[key.slot][tariff.name]


def charges_of_day(
    day: str, uses: Iterable[Use], books: Iterable[Shared], terms: Terms, intensity: Intensity
) -> list[Charge]:
    """The charges of one UTC day from its hours, in an order that depends on nothing else.

    Raises TariffError.
    """
    found = _Day(terms, intensity)
    _take_uses(found, uses)
    _share_books(found, books)
    _share_overhead(found)
    _share_embodied(found)
    return _merged(day, found)


def _take_uses(found: _Day, uses: Iterable[Use]) -> None:
    for use in uses:
        slot = found.slot(use.hour_us)
        of_gpus = found.sums[_Key(slot, "gpu", use.who, True)]
        of_gpus.add(*found.weighted(use.hour_us, use.energy_uj or 0))
        of_gpus.requests += use.requests
        found.used["gpu"][use.who] += use.energy_uj or 0
        if use.host_uj:
            of_hosts = found.sums[_Key(slot, "host", use.who, found.terms.host)]
            of_hosts.add(*found.weighted(use.hour_us, use.host_uj))
            found.used["host"][use.who] += use.host_uj


def _share_books(found: _Day, books: Iterable[Shared]) -> None:
    """Divide what no request drew among those who bear it."""
    terms = found.terms
    pools: dict[tuple[int, Boundary, Component], _Sum] = defaultdict(_Sum)
    for book in books:
        slot = found.slot(book.hour_us)
        pools[slot, book.boundary, "idle"].add(*found.weighted(book.hour_us, book.idle_uj))
        pools[slot, book.boundary, "unattributed"].add(*found.weighted(book.hour_us, book.unattributed_uj))
        found.device_us += book.device_us if book.boundary == "gpu" else 0
    for (slot, boundary, component), pool in pools.items():
        bearer = terms.idle if component == "idle" else terms.unattributed
        if boundary == "host" and not terms.host:
            bearer = "operator"
        # Where requests have no energy of hosts, the GPUs' says who used them.
        by_use = found.used[boundary] if any(found.used[boundary].values()) else found.used["gpu"]
        _divide(found, slot, component, pool, _parties(bearer, by_use, terms.reservations))


def _share_overhead(found: _Day) -> None:
    """(PUE - 1) times all that was drawn that day, divided by slot, then by who bears it."""
    terms = found.terms
    if terms.pue is None:
        return
    drawn: dict[int, _Sum] = defaultdict(_Sum)
    by_use: dict[int, dict[tuple[Who, bool], int]] = defaultdict(lambda: defaultdict(int))
    for key, entry in found.sums.items():
        drawn[key.slot].add(entry.energy_uj, entry.location, entry.market)
        by_use[key.slot][key.who, key.billed] += entry.energy_uj
    slots = [slot for slot, entry in drawn.items() if entry.energy_uj]
    if not slots:
        return
    more = terms.pue - ONE
    whole_uj = nearest(more * sum(entry.energy_uj for entry in drawn.values()), ONE)
    parts = share(whole_uj, [drawn[slot].energy_uj for slot in slots])
    for slot, energy_uj in zip(slots, parts, strict=True):
        drawn_there = drawn[slot]
        pool = _Sum(energy_uj, _times(drawn_there.location, more), _times(drawn_there.market, more))
        parties: Sequence[_Party]
        if terms.overhead == "by_use":
            parties = [_Party(*who, weight) for who, weight in by_use[slot].items() if weight]
        else:
            parties = _parties(terms.overhead, {}, terms.reservations)
        _divide(found, slot, "overhead", pool, parties)


def _times(carbon: int | None, millionths: int) -> int | None:
    return None if carbon is None else nearest(carbon * millionths, ONE)


def _share_embodied(found: _Day) -> None:
    """The making of the GPUs, for the time of their books, goes to those who used them, by energy."""
    if found.terms.embodied is None:
        return
    whole = found.device_us * found.terms.embodied * EMBODIED_UNITS
    parties = _parties("by_use", found.used["gpu"], {})
    parts = share(whole, [party.weight for party in parties])
    first = {key.who: entry for key, entry in reversed(found.sums.items()) if key.component == "gpu"}
    idle = _Key(0, "idle", NOBODY, False)
    for party, part in zip(parties, parts, strict=True):
        if part:
            # Where nobody used them they only stood there, and the operator bears that.
            entry = first[party.who] if party.billed else found.sums[idle]
            entry.embodied = part


def _parties(bearer: Bearer, by_use: Mapping[Who, int], reservations: Mapping[str, int]) -> Sequence[_Party]:
    """Who bears something, and how much of it. Where nobody used anything, the operator does."""
    if bearer == "by_reservation" and reservations:
        reserved = [_Party(Who(project), True, part) for project, part in sorted(reservations.items())]
        left = ONE - sum(reservations.values())
        return [*reserved, _Party(NOBODY, False, left)] if left else reserved
    users = [_Party(who, True, energy_uj) for who, energy_uj in by_use.items() if energy_uj]
    return users if bearer == "by_use" and users else [OPERATOR]


def _divide(found: _Day, slot: int, component: Component, pool: _Sum, parties: Sequence[_Party]) -> None:
    if not pool.energy_uj:
        return
    parties = sorted(parties, key=lambda party: _order(party.who))
    weights = [party.weight for party in parties]
    unknown: list[None] = [None] * len(parties)
    energies = share(pool.energy_uj, weights)
    location = unknown if pool.location is None else share(pool.location, energies)
    market = unknown if pool.market is None else share(pool.market, energies)
    for party, energy_uj, *carbon in zip(parties, energies, location, market, strict=True):
        found.sums[_Key(slot, component, party.who, party.billed)].add(energy_uj, *carbon)


def _merged(day: str, found: _Day) -> list[Charge]:
    """One charge for each who, component and rate: slots that differ only for others are one."""
    merged: dict[tuple[Component, Who, bool, Rate | None], _Sum] = defaultdict(_Sum)
    for key, entry in found.sums.items():
        into = merged[key.component, key.who, key.billed, found.rate(key)]
        into.add(entry.energy_uj, entry.location, entry.market)
        into.requests += entry.requests
        if entry.embodied is not None:
            into.embodied = (into.embodied or 0) + entry.embodied
    charges = [
        Charge(
            day=day,
            who=who,
            component=component,
            billed=billed,
            rate=None if rate is None else rate.name,
            price=None if rate is None else rate.price,
            energy_uj=entry.energy_uj,
            requests=entry.requests,
            location=entry.location,
            market=entry.market,
            embodied=entry.embodied,
        )
        for (component, who, billed, rate), entry in merged.items()
        if entry.energy_uj or entry.requests or entry.embodied
    ]
    return sorted(charges, key=order)


ORDER: dict[str, int] = {"gpu": 0, "host": 1, "idle": 2, "unattributed": 3, "overhead": 4}


def order(charge: Charge) -> tuple[object, ...]:
    """Sorts charges: customers before the operator, by day, who, component and rate."""
    return (not charge.billed, charge.day, _order(charge.who), ORDER[charge.component], charge.rate or "")


def _order(who: Who) -> tuple[tuple[bool, str], ...]:
    return tuple((part is not None, part or "") for part in who)
