"""What was spent with each key: the store's sums, and what came again from the journal, each once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest

from accounting.access.spent import Periods, periods_of, spent_since
from accounting.records import Output
from accounting.store.sums import DAY_US
from accounting.store.writer import StoreWriter
from tests.accounting.store.databases import Database
from tests.accounting.store.examples import T0_US, correction, record

DAY = T0_US // DAY_US
MONTH = periods_of(T0_US).month
OUTPUTS: list[Output] = [
    record(1, api_key="a", energy_uj=10),
    record(2, api_key="b", energy_uj=20),
    record(3, api_key=None),
    record(4, api_key="a", energy_uj=None, prefill_uj=None, decode_uj=None),
    correction(1),
    correction(3),
]
GAINED_UJ = 1_500_000
"""By a correction of the examples."""


def store(database: Database, outputs: Sequence[Output]) -> None:
    writer = StoreWriter(database.engine, "journal-1")
    writer.put(outputs, segment=1)
    assert writer.close(timeout_s=20)


def spent(database: Database, made_again: Sequence[Output]) -> dict[str, int]:
    found: Counter[str] = Counter()
    for key, day, uj in spent_since(database.engine, MONTH, made_again):
        assert day == DAY
        found[key] += uj
    return dict(found)


@pytest.mark.parametrize("stored", range(len(OUTPUTS) + 1))
def test_whatever_part_the_store_has_each_output_counts_once(database: Database, stored: int) -> None:
    """As after a kill: the journal makes everything again, the store has the beginning of it."""
    if stored:
        store(database, OUTPUTS[:stored])
    assert spent(database, OUTPUTS) == {"a": 10 + GAINED_UJ, "b": 20}


def test_what_only_the_store_has_counts_too(database: Database) -> None:
    store(database, OUTPUTS)
    assert spent(database, []) == {"a": 10 + GAINED_UJ, "b": 20}
    assert spent(database, [record(9, api_key="c", energy_uj=5)]) == {"a": 10 + GAINED_UJ, "b": 20, "c": 5}


def test_a_month_does_not_count_the_one_before(database: Database) -> None:
    before = record(1, api_key="a", energy_uj=7, finished_us=MONTH * DAY_US - 1)
    store(database, [before])
    assert spent(database, [before]) == {}


@pytest.mark.parametrize(
    ("date", "day", "month"),
    [(0, 0, 0), (30.99, 30, 0), (31, 31, 31), (58.9, 58, 31), (59, 59, 59), (364, 364, 334), (365, 365, 365)],
)
def test_days_and_months_are_those_of_utc(date: float, day: int, month: int) -> None:
    """Days since 1970-01-01."""
    assert periods_of(round(date * DAY_US)) == Periods(day, month)
