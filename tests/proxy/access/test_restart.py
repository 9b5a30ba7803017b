"""Keys and budgets over restarts, with the database there and with it away."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from accounting.access.keys import Limits
from accounting.access.store import AccessStore
from accounting.journal import Journal
from accounting.ledger import Ledger
from accounting.records import Output
from accounting.store.sums import DAY_US
from accounting.store.writer import StoreWriter
from proxy.access.expected import Expected, Size
from proxy.access.gate import Gate
from proxy.access.grant import Grant
from proxy.access.keeper import KEYS_FILE, Keeper
from proxy.access.spending import Collecting, Spending
from proxy.errors import Unauthorized
from tests.accounting.store.databases import Database, database, empty_database, postgres
from tests.accounting.store.examples import T0_US, correction, record

__all__ = ["database", "empty_database", "postgres"]

NOW_US = T0_US + 60_000_000
GAINED_UJ = 1_500_000
"""By a correction of the examples."""


def gate() -> Gate:
    return Gate(lambda: NOW_US, Expected(), admin=None, output_tokens=10)


def keeper_of(database: Database, into: Gate, directory: Path) -> Keeper:
    return Keeper(AccessStore(database.engine, lambda: NOW_US), into, directory)


def bearer(secret: str) -> list[tuple[bytes, bytes]]:
    return [(b"authorization", b"Bearer " + secret.encode())]


def test_keys_work_while_the_database_is_away_also_after_a_restart(
    database: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    key, secret = AccessStore(database.engine, lambda: NOW_US).create("k", limits=Limits(uj_per_day=5))
    first, second, stranger = gate(), gate(), gate()
    keeper_of(database, first, tmp_path).load()
    with database.away():
        keeper_of(database, second, tmp_path).load()
        keeper_of(database, stranger, tmp_path / "elsewhere").load()
    for one in (first, second):
        assert one.know(bearer(secret)).key == key
        assert one.scopes[f"key/{key.id}"].limits == Limits(uj_per_day=5)
    assert "keys are those of" in caplog.text
    assert "no keys are known" in caplog.text
    with pytest.raises(Unauthorized):
        stranger.know(bearer(secret))


def test_what_has_changed_is_taken_in_and_what_cannot_be_read_leaves_all_as_it_is(
    database: Database, tmp_path: Path
) -> None:
    store, one = AccessStore(database.engine, lambda: NOW_US), gate()
    keeper = keeper_of(database, one, tmp_path)
    keeper.load()
    _, secret = store.create("k")
    with pytest.raises(Unauthorized):
        one.know(bearer(secret))
    _look(keeper)
    one.know(bearer(secret))
    with database.away():
        _look(keeper)
    one.know(bearer(secret))
    before = (tmp_path / KEYS_FILE).stat().st_mtime_ns
    _look(keeper)  # nothing new: nothing is written
    assert (tmp_path / KEYS_FILE).stat().st_mtime_ns == before


def _look(keeper: Keeper) -> None:
    asyncio.run(keeper.look())


class Run:
    """One life of a proxy: what the ledger says in it, heard and stored as far as is wanted."""

    def __init__(self, database: Database, directory: Path, journal: Journal) -> None:
        self.gate, self.database = gate(), database
        keeper_of(database, self.gate, directory).load()
        self.spending = Spending(self.gate, journal, directory / "spent.json")

    def spent(self, key: str) -> int:
        return self.gate.scopes[f"key/{key}"].day_uj


@pytest.mark.parametrize("away", [False, True])
@pytest.mark.parametrize("noted", range(5))
@pytest.mark.parametrize("stored", [0, 3])
def test_after_a_kill_each_output_is_spent_once_wherever_it_was(
    database: Database, tmp_path: Path, away: bool, noted: int, stored: int
) -> None:
    """`noted` outputs were heard when the note was written, `stored` are in the store; four were made."""
    key, _ = AccessStore(database.engine, lambda: NOW_US).create("k")
    journal = Journal(tmp_path / "journal")
    journal.begin_segment(Ledger().state)
    outputs: list[Output] = [
        record(1, api_key=key.id, energy_uj=10),
        record(2, api_key=key.id, energy_uj=20),
        correction(1),
        record(3, api_key=None, energy_uj=40),
    ]
    before = Run(database, tmp_path, journal)
    for output in outputs[:noted]:
        before.spending.output(output)
    before.spending.save()
    for output in outputs[noted:]:
        before.spending.output(output)
    assert before.spent(key.id) == 30 + GAINED_UJ
    writer = StoreWriter(database.engine, "j")
    writer.put(outputs[:stored], segment=1)
    assert writer.close(timeout_s=20)

    after = Run(database, tmp_path, journal)
    again = [(outputs[:2], 1), (outputs[2:], 1)]
    if away:
        with database.away():
            after.spending.recover(database.engine, again, Ledger())
    else:
        after.spending.recover(database.engine, again, Ledger())
    assert after.spent(key.id) == 30 + GAINED_UJ
    after.spending.output(record(4, api_key=key.id, energy_uj=5))
    after.spending.output(correction(2))  # of before the kill
    assert after.spent(key.id) == 35 + 2 * GAINED_UJ
    assert after.gate.scopes["project/default"].day_uj == after.spent(key.id)
    journal.close()


def test_what_was_learnt_is_known_after_a_restart(database: Database, tmp_path: Path) -> None:
    key, _ = AccessStore(database.engine, lambda: NOW_US).create("k")
    journal = Journal(tmp_path / "journal")
    before = Run(database, tmp_path, journal)
    size = Size("/v1/completions", "m", 100, 10, 1)
    grant = Grant(before.gate, before.gate.scopes_of(key.id), size, 0, 0)
    grant.settle(record(1, api_key=key.id), T0_US // DAY_US)
    before.gate.expected.learn(size, record(1, api_key=key.id))
    before.spending.output(record(2, api_key=key.id))
    before.spending.save()
    after = Run(database, tmp_path, journal)
    after.spending.recover(database.engine, [], Ledger())
    assert after.gate.expected.uj(size) == before.gate.expected.uj(size) is not None
    journal.close()


def test_a_sink_that_collects_passes_all_on_and_forgets_once_asked() -> None:
    class Sink:
        def __init__(self) -> None:
            self.got: list[tuple[Sequence[Output], int]] = []
            self.stored_segment = 7

        def put(self, outputs: Sequence[Output], segment: int) -> None:
            self.got.append((outputs, segment))

        def progress(self) -> int | None:
            return 3

    sink = Sink()
    collecting = Collecting(sink)
    collecting.put([record(1)], 1)
    assert collecting.take() == [((record(1),), 1)]
    collecting.put([record(2)], 2)
    assert collecting.take() == []
    assert sink.got == [([record(1)], 1), ([record(2)], 2)]
    assert (collecting.progress(), collecting.stored_segment) == (3, 7)
