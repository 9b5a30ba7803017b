"""One scenario: simulated, told to a ledger, stored, diagnosed from the store, and held against the truth."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Engine

from accounting.diagnosis import Diagnosis, diagnose
from accounting.diagnosis.reading import WindowReader
from accounting.records import BookEntry, Output
from accounting.store.engine import connect, migrate, writing
from accounting.store.statements import write
from benchmarks.diagnoses.fleet import Served
from benchmarks.diagnoses.scenarios import Scenario, end_s
from benchmarks.diagnoses.told import AFTER_S, Phase, Teller
from benchmarks.sweeps.told import T0_US

OFF = 0.20
"""The aim: a predicted saving is within this of the true one."""


@dataclass(frozen=True, slots=True)
class Result:
    """Savings in joules. `first` is the cause that the diagnosis put first."""

    name: str
    seed: int
    planted: str
    first: str
    drawn_j: float
    predicted_j: float | None
    sigma_j: float | None
    true_j: float | None
    what: str
    diagnosis: Diagnosis
    unbalanced: int

    @property
    def off(self) -> float | None:
        """Relative error of the predicted saving."""
        if self.predicted_j is None or not self.true_j:
            return None
        return self.predicted_j / self.true_j - 1

    @property
    def missed(self) -> list[str]:
        missed = []
        if self.first != self.planted:
            missed.append(f"{self.name} {self.seed}: {self.first} came first, not {self.planted}")
        if self.off is None or abs(self.off) > OFF:
            missed.append(f"{self.name} {self.seed}: the saving is off by {self.off}")
        if self.unbalanced:
            missed.append(f"{self.name} {self.seed}: {self.unbalanced} entries of the books do not balance")
        return missed


def check(scenario: Scenario, seed: int) -> Result:
    fleet, phases = scenario.phases()
    begin_s = phases[-1].begin_s
    found, unbalanced = diagnosed(phases, fleet)
    finding = next((one for one in found.findings if one.cause == scenario.planted), None)
    until_s = (found.t1_us - T0_US) / 1e6 - begin_s
    true_j = None if finding is None else scenario.removed(fleet, finding, until_s)
    saving = None if finding is None else finding.saving_uj
    sigma = None if finding is None else finding.uncertainty_uj
    return Result(
        name=scenario.name,
        seed=seed,
        planted=scenario.planted,
        first=found.findings[0].cause if found.findings else "nothing",
        drawn_j=sum(served.energy_j(0.0, until_s) for served in fleet),
        predicted_j=None if saving is None else saving / 1e6,
        sigma_j=None if sigma is None else sigma / 1e6,
        true_j=true_j,
        what="" if finding is None else finding.what,
        diagnosis=found,
        unbalanced=unbalanced,
    )


def diagnosed(phases: list[Phase], fleet: list[Served]) -> tuple[Diagnosis, int]:
    """By way of a store, of the last phase."""
    teller, last = Teller(), phases[-1]
    end = last.begin_s + end_s(fleet)
    last.seconds += AFTER_S
    for phase in phases:
        teller.tell(phase)
    outputs = teller.finish()
    unbalanced = sum(
        o.requests_uj + o.idle_uj + o.unobserved_uj + o.unmeasured_uj != (o.measured_uj or 0)
        for o in outputs
        if isinstance(o, BookEntry)
    )
    with stored(outputs) as engine:
        window = WindowReader(engine).window(T0_US + round(last.begin_s * 1e6), T0_US + round(end * 1e6))
    return diagnose(window), unbalanced


@contextmanager
def stored(outputs: Sequence[Output]) -> Iterator[Engine]:
    """A store with all of these."""
    with tempfile.TemporaryDirectory() as directory:
        engine = connect(f"sqlite:///{Path(directory) / 'store.db'}")
        migrate(engine)
        with writing(engine) as connection, connection.begin():
            write(connection, outputs)
        yield engine
        engine.dispose()
