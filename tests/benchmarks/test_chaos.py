"""Faults caused for real for a moment: nothing is lost or comes twice, books balance, budgets are right."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.faults import cases, kills
from benchmarks.faults.cases import Case, Scene
from benchmarks.faults.disk import NoDisk
from simulator.process import SimulatedEngine


@pytest.fixture
def scene(simulated: SimulatedEngine) -> Iterator[Scene]:
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o711)  # PostgreSQL runs as somebody else
        yield Scene(simulated, Path(place), hold_s=0.5, kills=2)


@pytest.mark.parametrize(
    "case",
    [cases.database_down_at_start, cases.database_failed_over, cases.disk_full],
    ids=lambda case: case.__name__,
)
def test_a_fault_of_the_store_loses_nothing(case: Case, scene: Scene) -> None:
    try:
        outcome = case(scene)
    except NoDisk as error:
        pytest.skip(str(error))
    assert outcome.answered > 0
    assert (outcome.lost, outcome.twice, outcome.findings) == (0, 0, 0), outcome.notes


def test_kills_lose_nothing_and_leave_budgets_right(scene: Scene) -> None:
    outcome = kills.keys_sqlite(scene)
    assert outcome.killed >= 2
    assert outcome.answered > 0
    assert (outcome.lost, outcome.twice, outcome.findings) == (0, 0, 0), outcome.notes
    assert outcome.budgets == "right"
