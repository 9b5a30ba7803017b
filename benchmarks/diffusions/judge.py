"""How wrong a job's joules are: the ledger's and those of simpler methods, against the simulator's truth."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.diffusions import shared, told
from benchmarks.diffusions.scenarios import QUIET_S, Scenario, idle_w, jobs_of, physics_of
from benchmarks.diffusions.shared import Chat
from benchmarks.diffusions.told import Concluded, Curve
from benchmarks.judge.score import Errors, errors_of
from simulator.diffusion.cards import CARDS
from simulator.diffusion.virtual import VirtualJob, run

Floats = NDArray[np.float64]

OURS = "joulegate"
WARM = 0.2
"""The first part of the run is not judged: what is learnt there, every method may use."""

TAIL_S = 60.0
MEASURED_AIM = 0.01
OWN_TENANT = 0.5


@dataclass(slots=True)
class Score:
    """`chats`: the errors of the language model's requests beside it, where there were any. `wasted` is the
    part of the energy booked to requests that never ran."""

    scenario: Scenario
    judged: int
    overlap: float
    """Sum of the times that the server tells, over the time that it worked."""
    methods: dict[str, Errors]
    chats: dict[str, Errors] = field(default_factory=dict)
    wasted: float = 0.0
    measured_error: float = 0.0
    balanced: bool = True

    @property
    def missed(self) -> list[str]:
        """The aims that were missed, in words."""
        aim, missed = self.scenario.aim, []
        for what, errors in (("", self.methods[OURS]), ("chats: ", self.chats.get(OURS))):
            if aim is not None and errors is not None:
                missed += [
                    f"{what}{name} {getattr(errors, name):.1%} > {getattr(aim, name):.0%}"
                    for name in ("median", "p90", "tenant")
                    if not getattr(errors, name) <= getattr(aim, name)
                ]
        if not self.balanced:
            missed.append("books do not balance")
        if not abs(self.measured_error) <= MEASURED_AIM:
            missed.append(f"measured energy off by {self.measured_error:.2%}")
        return missed

    def as_dict(self) -> dict[str, Any]:
        return {
            "scenario": self.scenario.name,
            "judged": self.judged,
            "overlap": round(self.overlap, 2),
            "methods": {name: _rounded(errors) for name, errors in self.methods.items()},
            "chats": {name: _rounded(errors) for name, errors in self.chats.items()},
            "wasted": round(self.wasted, 4),
            "measured_error": float(f"{self.measured_error:.2g}"),
            "balanced": self.balanced,
            "missed": self.missed,
        }


def _rounded(errors: Errors) -> dict[str, float]:
    return {name: round(value, 4) for name, value in asdict(errors).items()}


def judge(scenario: Scenario, length_s: float, seed_added: int = 0) -> Score:
    """Run a scenario and every method on it."""
    seed = scenario.seed + seed_added
    length_s = scenario.start_s or length_s * scenario.long
    jobs = jobs_of(scenario, length_s, seed)
    asked: list[Chat] = []
    noise = random.Random(seed + 1)
    if scenario.chats_per_s:
        asked = shared.chats(scenario.chats_per_s, QUIET_S, length_s, seed + 2)
        curve = shared.Pair(physics_of(scenario), scenario.gpu, noise).serve(jobs, asked, TAIL_S)
    else:
        course = run(
            physics_of(scenario),
            jobs,
            max_batch=scenario.max_batch,
            idle_power_w=idle_w(scenario),
            tail_s=TAIL_S,
            noise=noise,
        )
        jobs, curve = course.jobs, Curve(course.time_s, course.energy_j)
    done = conclude(scenario, jobs, asked, curve)
    from_s = QUIET_S + (0.0 if scenario.start_s else WARM * length_s)
    judged = [k for k, job in enumerate(jobs) if job.energy_j > 0 and job.arrives_s >= from_s]
    true_j = np.array([jobs[k].energy_j for k in judged])
    tenants = _tenants(jobs, judged, seed + 3)
    methods = {OURS: errors_of(np.array([done.joules(f"m{k}") for k in judged]), true_j, tenants)}
    seen = Seen(jobs, asked, curve)
    for name, method in PEERS.items():
        if name == EQUAL or not asked:
            methods[name] = errors_of(method(seen)[judged], true_j, tenants)
    chat_errors = {}
    if asked:
        late = [k for k, chat in enumerate(asked) if chat.arrives_s >= from_s]
        truth = np.array([asked[k].energy_j for k in late])
        one = ["chats"] * len(late)
        chat_errors[OURS] = errors_of(np.array([done.joules(f"c{k}") for k in late]), truth, one)
        chat_errors[EQUAL] = errors_of(seen.by_head()[len(jobs) :][late], truth, one)
    booked = sum(entry.requests_uj for entry in done.books) / 1e6
    never = sum(done.joules(f"m{k}") for k, job in enumerate(jobs) if job.begins_s is None)
    return Score(
        scenario=scenario,
        judged=len(judged),
        overlap=_overlap(jobs),
        methods=methods,
        chats=chat_errors,
        wasted=never / booked,
        measured_error=_measured(done, curve),
        balanced=done.balanced and len(done.records) == len(jobs) + len(asked),
    )


def conclude(
    scenario: Scenario, jobs: Sequence[VirtualJob], asked: Sequence[Chat], curve: Curve
) -> Concluded:
    card = CARDS[scenario.model]
    timed = told.tell(jobs, card.kind, card.fps)
    if scenario.counts:
        timed += told.counts(jobs, curve.end_s)
    begin = [told.declared(1, scenario.at_once)]
    if not asked:
        return told.settle(timed, curve, begin)
    begin.append(told.declared(1, None, shared.BACKEND, shared.card()))
    return told.settle([*timed, *shared.tell(asked)], curve, begin, shared.ticks(asked, curve.end_s))


def _tenants(jobs: Sequence[VirtualJob], judged: Sequence[int], seed: int) -> list[str]:
    """Half of the jobs are of a tenant that always asks for the same number of steps."""
    draw = random.Random(seed)
    return [str(jobs[k].shape.steps) if draw.random() < OWN_TENANT else "mixed" for k in judged]


def _overlap(jobs: Sequence[VirtualJob]) -> float:
    spans = sorted((job.begins_s, job.ends_s, job.arrives_s) for job in jobs if job.begins_s is not None)
    worked_s, reached_s = 0.0, 0.0
    for begin_s, end_s, _ in spans:
        worked_s += max(0.0, end_s - max(begin_s, reached_s))
        reached_s = max(reached_s, end_s)
    return sum(end_s - arrives_s for _, end_s, arrives_s in spans) / worked_s


def _measured(done: Concluded, curve: Curve) -> float:
    """Measured against true energy over all intervals that the counter covers whole; a share of the true."""
    whole = [entry for entry in done.books if entry.covered_us == entry.t1_us - entry.t0_us]
    edges_s = (np.array([[entry.t0_us, entry.t1_us] for entry in whole]) - told.T0_US) / 1e6
    true_j = float(np.diff(curve.at(edges_s), axis=1).sum())
    return sum(entry.measured_uj or 0 for entry in whole) / 1e6 / true_j - 1


@dataclass(slots=True)
class Seen:
    """What the simpler methods see: arrivals, ends, what was asked for, and the GPU's energy."""

    jobs: Sequence[VirtualJob]
    asked: Sequence[Chat]
    curve: Curve

    @property
    def begins_s(self) -> Floats:
        media = [job.arrives_s for job in self.jobs]
        return np.array([*media, *(chat.arrives_s for chat in self.asked)])

    @property
    def ends_s(self) -> Floats:
        """When the answer came or the client left."""
        media = [job.ends_s if job.leaves_s is None else min(job.ends_s, job.leaves_s) for job in self.jobs]
        return np.array([*media, *(chat.tokens_s[-1] for chat in self.asked)])

    @property
    def answered(self) -> Floats:
        return np.array([float(job.leaves_s is None or job.leaves_s >= job.ends_s) for job in self.jobs])

    @property
    def energy_j(self) -> float:
        """Of the time in which anything was in flight."""
        return float(self.by_head().sum())

    def by_head(self) -> Floats:
        """Energy of every moment in equal parts to those in flight."""
        begins, ends = self.begins_s, self.ends_s
        edges = np.unique(np.concatenate([begins, ends]))
        there = np.searchsorted(np.sort(begins), edges[:-1], side="right") - np.searchsorted(
            np.sort(ends), edges[:-1], side="right"
        )
        energy = np.diff(self.curve.at(edges))
        each = np.divide(energy, there, out=np.zeros(len(energy)), where=there > 0)
        upto = np.concatenate([[0.0], np.cumsum(each)])
        share: Floats = upto[np.searchsorted(edges, ends)] - upto[np.searchsorted(edges, begins)]
        return share


def by_head(seen: Seen) -> Floats:
    return seen.by_head()[: len(seen.jobs)]


def by_server_times(seen: Seen) -> Floats:
    """The energy of the run by the times that vLLM-Omni tells: from arrival to end."""
    times = (seen.ends_s - seen.begins_s)[: len(seen.jobs)] * seen.answered
    share: Floats = times * (seen.energy_j / times.sum())
    return share


def by_outputs(seen: Seen) -> Floats:
    """The energy of the run by images or videos."""
    outputs = np.array([float(job.outputs) for job in seen.jobs]) * seen.answered
    share: Floats = outputs * (seen.energy_j / outputs.sum())
    return share


EQUAL = "equal split in flight"
PEERS: dict[str, Callable[[Seen], Floats]] = {
    EQUAL: by_head,
    "server's times": by_server_times,
    "count": by_outputs,
}
