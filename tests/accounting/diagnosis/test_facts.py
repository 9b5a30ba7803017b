"""Facts as the ledger makes them, out of a simulated engine's doing, and their way through the store."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from sqlalchemy import select

from accounting.diagnosis import diagnose
from accounting.diagnosis.reading import NothingKnown, TooLong, WindowReader
from accounting.events import AnyEvent
from accounting.ledger import Ledger
from accounting.records import MINUTE_US, BackendFacts, BookEntry, Output, RequestRecord
from accounting.store.facts import FactsReader, write_facts
from accounting.store.retention import keep
from accounting.store.schema import StoredFacts
from accounting.store.writer import StoreWriter
from benchmarks.diagnoses.fleet import poisson, serve
from benchmarks.diagnoses.scenarios import replica
from benchmarks.diagnoses.told import Phase, Teller
from benchmarks.sweeps.told import T0_US
from tests.accounting.diagnosis.examples import T0_US as MADE_US
from tests.accounting.diagnosis.examples import empty, facts
from tests.accounting.store.databases import Database
from tests.accounting.store.examples import record


class Heard(Ledger):
    """Keeps what it was told."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[AnyEvent] = []

    def hear(self, event: AnyEvent) -> list[Output]:
        self.events.append(event)
        return super().hear(event)


@pytest.fixture(scope="module")
def told() -> Teller:
    """A minute and a half of requests, and as long again, so that all of it is told."""
    served = serve(replica(poisson(1, 3.0, 90.0, 200, 100)))
    teller = Teller(ledger=Heard())
    teller.tell(Phase([served], 0.0, served.end_s + 100.0))
    return teller


def of_kind(outputs: list[Output]) -> list[BackendFacts]:
    return [one for one in outputs if isinstance(one, BackendFacts)]


def test_every_minute_is_told_once_in_order(told: Teller) -> None:
    starts = [one.t0_us for one in of_kind(told.outputs)]
    assert starts == sorted(set(starts))
    assert starts[0] == T0_US // MINUTE_US * MINUTE_US
    assert len(starts) >= 2


def test_energies_are_those_of_the_books(told: Teller) -> None:
    for one in of_kind(told.outputs):
        books = [
            o
            for o in told.outputs
            if isinstance(o, BookEntry) and o.t0_us // MINUTE_US * MINUTE_US == one.t0_us
        ]
        assert one.requests_uj == sum(o.requests_uj for o in books)
        assert one.settled_us == sum(o.covered_us for o in books if o.covered_us == 500_000)


def test_work_is_that_of_the_requests(told: Teller) -> None:
    some = [*of_kind(told.outputs), *told.ledger.facts()]
    records = [o for o in told.outputs if isinstance(o, RequestRecord)]
    assert sum(one.arrived for one in some) == len(records)
    assert sum(one.tokens for one in some) == pytest.approx(
        sum(r.completion_tokens or 0 for r in records), rel=0.02
    )
    assert sum(one.work[2] for one in some) == pytest.approx(
        sum(r.prompt_tokens or 0 for r in records), rel=0.1
    )


def test_prices_and_times_explain_the_minute(told: Teller) -> None:
    busiest = max(of_kind(told.outputs), key=lambda one: one.busy_us)
    joules = sum(w * p for w, p in zip(busiest.work, busiest.prices, strict=True))
    seconds = sum(w * t for w, t in zip(busiest.work, busiest.times, strict=True))
    assert joules == pytest.approx(busiest.learnt_uj / 1e6, rel=0.05)
    assert seconds == pytest.approx(busiest.learnt_us / 1e6, rel=0.05)


def test_what_engine_and_gpu_show_is_in_them(told: Teller) -> None:
    one = max(of_kind(told.outputs), key=lambda one: one.busy_us)
    assert 55 <= one.looks <= 60
    assert one.running is not None
    assert one.running > 0.5
    assert one.preemptions == 0
    assert one.limit_w == one.default_limit_w == 700.0
    assert (one.capped, one.throttled, one.seats) == (0.0, 0.0, None)
    assert one.static_w == pytest.approx(110.0, rel=0.01)


@pytest.mark.parametrize("part", [0.3, 0.6])
def test_a_ledger_taken_up_in_the_middle_tells_the_same(told: Teller, part: float) -> None:
    assert isinstance(told.ledger, Heard)
    events, whole = told.ledger.events, Ledger()
    cut = int(part * len(events))
    out = [o for event in events[:cut] for o in whole.hear(event)]
    written = msgspec.json.encode(whole.state)
    taken = Ledger(msgspec.json.decode(written, type=type(whole.state)))
    out += [o for event in events[cut:] for o in taken.hear(event)]
    assert of_kind(out) == of_kind(told.outputs)


def store(database: Database, *outputs: Output) -> None:
    writer = StoreWriter(database.engine, "journal-1")
    writer.put(outputs, segment=0)
    assert writer.close(timeout_s=20)


def spend(number: int, **changes: object) -> RequestRecord:
    return record(number, backend="one", started_us=MADE_US, finished_us=MADE_US + number + 1, **changes)


def test_facts_come_back_as_they_were_and_once(database: Database) -> None:
    both = facts(0), facts(1, static_w=None, seats=4, backend="zwei ü")
    store(database, *both)
    store(database, *both)
    assert FactsReader(database.engine).facts(0, 2**62) == list(both)
    assert FactsReader(database.engine).facts(0, 2**62, ["one"]) == [both[0]]


def test_the_newest_minute_with_free_clocks_is_found(database: Database) -> None:
    store(database, facts(0), facts(1), facts(2, capped=0.5), empty(3))
    reader = FactsReader(database.engine)
    assert reader.free("one", MADE_US + 9 * MINUTE_US) == facts(1)
    assert reader.free("one", MADE_US) is None
    assert reader.free("other", 2**62) is None


def test_a_window_is_read_with_whom_it_is_about(database: Database) -> None:
    of_two = [spend(n, tenant="acme" if n % 2 else "other", energy_uj=1_000_000) for n in range(4)]
    store(database, facts(0), facts(1), *of_two)
    reader, until_us = WindowReader(database.engine), MADE_US + 2 * MINUTE_US
    whole = reader.window(MADE_US, until_us)
    assert (len(whole.facts), whole.spent[0].requests, whole.asked, whole.shares) == (2, 4, None, {})
    mine = reader.window(MADE_US, until_us, tenant="acme")
    assert mine.shares == {"one": 0.5}
    assert diagnose(mine).where.requests_uj == 2_000_000
    assert diagnose(mine).where.measured_uj is None
    assert [one.cause for one in diagnose(whole).findings] == [one.cause for one in diagnose(mine).findings]
    assert len(reader.mix(MADE_US, until_us, ["one"])) == 4
    nobodies: tuple[dict[str, Any], ...] = ({"tenant": "nobody"}, {"backend": "none"}, {"model": "none"})
    for nobody in nobodies:
        with pytest.raises(NothingKnown):
            reader.window(MADE_US, until_us, **nobody)
    with pytest.raises(TooLong):
        reader.window(0, until_us)


def test_open_minutes_are_taken_where_none_is_stored(database: Database) -> None:
    store(database, facts(0), spend(0))
    reader, until_us = WindowReader(database.engine), MADE_US + 3 * MINUTE_US
    live = [facts(0, arrived=1), facts(1, arrived=2)]
    assert [one.arrived for one in reader.window(MADE_US, until_us, live=live).facts] == [200, 2]


def test_old_facts_are_deleted_and_others_stay(database: Database) -> None:
    with database.engine.begin() as connection:
        write_facts(connection, [facts(0), facts(60 * 24 * 30)])
    keep(database.engine, {"requests": None, "books": None, "facts": 7}, MADE_US + 60 * 24 * 31 * MINUTE_US)
    with database.engine.connect() as connection:
        left = list(connection.scalars(select(StoredFacts.t0_us)))
    assert left == [facts(60 * 24 * 30).t0_us]
