"""How wrong a method was, against the truth of the trace, and whether the aims are met."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.judge.baselines import METHODS
from benchmarks.judge.ours import Settlement, settle
from benchmarks.judge.seen import see
from benchmarks.traces.scenario import Scenario
from benchmarks.traces.telling import T0_US
from benchmarks.traces.trace import Trace, make_trace

Floats = NDArray[np.float64]

OURS = "joulegate"
MEASURED_AIM = 0.01
"""The measured energy lies this close to the true."""


@dataclass(frozen=True, slots=True)
class Errors:
    """Errors of a request's joules as shares of the truth; `tenant` is the worst of the tenants' sums."""

    median: float
    p90: float
    p99: float
    tenant: float


@dataclass(slots=True)
class Score:
    scenario: Scenario
    judged: int
    mean_batch: float
    busy: float
    methods: dict[str, Errors]
    dynamic_median: float | None
    """Median error of dynamic_uj. None where a record has none."""
    measured_error: float
    balanced: bool
    by_task: dict[str, float] = field(default_factory=dict)
    """Our median error by task."""

    @property
    def missed(self) -> list[str]:
        """The aims that were missed, in words."""
        ours, aim = self.methods[OURS], self.scenario.aim
        missed: list[str] = []
        if aim is not None:
            missed += [
                f"{name} {getattr(ours, name):.1%} > {getattr(aim, name):.0%}"
                for name in ("median", "p90", "tenant")
                if not getattr(ours, name) <= getattr(aim, name)
            ]
        if not self.balanced:
            missed.append("books do not balance")
        if not abs(self.measured_error) <= MEASURED_AIM:
            missed.append(f"measured energy off by {self.measured_error:.2%}")
        return missed

    def as_dict(self) -> dict[str, Any]:
        return {
            "scenario": self.scenario.name,
            "seed": self.scenario.seed,
            "judged": self.judged,
            "mean_batch": round(self.mean_batch, 2),
            "busy": round(self.busy, 3),
            "methods": {name: asdict(errors) for name, errors in self.methods.items()},
            "by_task": self.by_task,
            "dynamic_median": self.dynamic_median,
            "measured_error": self.measured_error,
            "balanced": self.balanced,
            "missed": self.missed,
        }


def judge(scenario: Scenario, measured_s: float) -> Score:
    """Run a scenario and every method on it."""
    trace = make_trace(scenario, measured_s)
    settlement = settle(trace)
    seen = see(trace, settlement)
    judged = trace.judged()
    place = {number: k for k, number in enumerate(seen.numbers)}
    rows = [place[number] for number in judged]
    true_j = np.array([trace.run.outcomes[number].energy_j for number in judged])
    ours_j = np.array([(settlement.records[number].energy_uj or 0) / 1e6 for number in judged])
    tenants = [trace.requests[number].tenant for number in judged]
    methods = {OURS: errors_of(ours_j, true_j, tenants)}
    for name, method in METHODS.items():
        methods[name] = errors_of(method(seen)[rows], true_j, tenants)
    tasks = np.array([trace.requests[number].task for number in judged])
    relative = np.abs(ours_j - true_j) / true_j
    return Score(
        scenario=scenario,
        judged=len(judged),
        mean_batch=trace.run.mean_batch,
        busy=trace.run.busy,
        methods=methods,
        dynamic_median=_dynamic(trace, settlement, judged),
        measured_error=_measured(trace, settlement),
        balanced=settlement.balanced,
        by_task={task: float(np.median(relative[tasks == task])) for task in np.unique(tasks).tolist()},
    )


def errors_of(estimate_j: Floats, true_j: Floats, tenants: list[str]) -> Errors:
    relative = np.abs(estimate_j - true_j) / true_j
    names = np.array(tenants)
    sums = [
        abs(float(estimate_j[names == name].sum() / true_j[names == name].sum()) - 1) for name in set(tenants)
    ]
    median, p90, p99 = np.percentile(relative, [50, 90, 99]).tolist()
    return Errors(median, p90, p99, max(sums))


def _dynamic(trace: Trace, settlement: Settlement, judged: list[int]) -> float | None:
    errors = []
    for number in judged:
        told_uj = settlement.records[number].dynamic_uj
        if told_uj is None:
            return None
        outcome = trace.run.outcomes[number]
        true_j = outcome.energy_j - outcome.static_j
        errors.append(abs(told_uj / 1e6 - true_j) / true_j)
    return float(np.median(errors))


def _measured(trace: Trace, settlement: Settlement) -> float:
    """Measured against true energy over all intervals that the counters cover whole; a share of the true."""
    measured_uj, true_j, gpus = 0, 0.0, trace.scenario.gpus
    for entry in settlement.books:
        if entry.measured_uj is None or entry.covered_us < entry.t1_us - entry.t0_us:
            continue
        measured_uj += entry.measured_uj
        ends_s = [(entry.t0_us - T0_US) / 1e6, (entry.t1_us - T0_US) / 1e6]
        low, high = np.interp(ends_s, trace.run.time_s, trace.run.energy_j).tolist()
        true_j += (high - low) / gpus
    return measured_uj / 1e6 / true_j - 1 if true_j else float("nan")
