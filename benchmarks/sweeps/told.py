"""A run in virtual time told to the ledger as the live service would, and what the ledger concludes.

The counter of each GPU is a staircase: every 100 ms (each GPU at its own moments) it shows the true energy of
20 ms before, in whole millijoules. A read falls right before and right after each of its steps: what a meter
that polls much faster would keep. Counts of tokens are said every `TICK_S`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from accounting.events import (
    AnyEvent,
    BackendDeclared,
    CounterReads,
    FirstToken,
    MeterUp,
    RequestFinished,
    RequestStarted,
    ServiceStarted,
    Tick,
    Usage,
)
from accounting.ledger import Ledger
from accounting.records import BookEntry, Correction, Output, RequestRecord, corrected
from benchmarks.cards import declared
from benchmarks.sweeps.steady import Steady
from simulator import cards
from simulator.virtual import Course, Job

T0_US = 1_790_000_000_000_000
"""When virtual time begins, in UTC microseconds."""

TICK_S = 0.25
COUNTER_S = 0.1
LAG_S = 0.02
READ_S = 0.001
BACKEND = "engine"

Ints = NDArray[np.int64]
Timed = list[tuple[float, int, AnyEvent]]


METER_OFF = 1e-6
"""Largest difference allowed between the books and the GPUs' true energy over the same time, as a share: a
counter shows whole millijoules."""


@dataclass(frozen=True, slots=True)
class Books:
    """What the ledger concluded of a run, in integer microjoules, and the true energy over the time booked.

    `unbalanced` counts entries of the books that are not the sum of their parts. `joules_per_token` is over
    the intervals that lie within the steady state; None where none does.
    """

    requests: int
    records_uj: int
    booked_uj: int
    measured_uj: int
    idle_uj: int
    elsewhere_uj: int
    unbalanced: int
    true_uj: int
    joules_per_token: float | None

    @property
    def exact(self) -> bool:
        """The records sum to what the books gave to requests, and every entry balances, to the microjoule."""
        return self.records_uj == self.booked_uj and not self.unbalanced

    @property
    def meter_off(self) -> float:
        """By how much the books differ from the true energy, as a share of it."""
        return abs(self.measured_uj - self.true_uj) / self.true_uj

    @property
    def met(self) -> bool:
        return self.exact and self.meter_off <= METER_OFF


def settle(steady: Steady, model: cards.ModelCard, gpus: int) -> Books:
    """Tell a fresh ledger all of the run and sum up what comes out."""
    course = steady.course
    ledger = Ledger()
    records: dict[str, RequestRecord] = {}
    entries: list[BookEntry] = []

    def take(outputs: list[Output]) -> None:
        for output in outputs:
            match output:
                case RequestRecord():
                    records[output.uid] = output
                case Correction():
                    records[output.uid] = corrected(records[output.uid], output)
                case BookEntry():
                    entries.append(output)

    reads = [_reads(course, gpus, number) for number in range(gpus)]
    for event in _events(course, model, reads):
        take(ledger.hear(event))
    take(ledger.close())
    unbalanced = sum(
        entry.requests_uj + entry.idle_uj + entry.unobserved_uj + entry.unmeasured_uj
        != (entry.measured_uj or 0)
        for entry in entries
    )
    return Books(
        requests=len(records),
        records_uj=sum(record.energy_uj or 0 for record in records.values()),
        booked_uj=sum(entry.requests_uj for entry in entries),
        measured_uj=sum(entry.measured_uj or 0 for entry in entries),
        idle_uj=sum(entry.idle_uj for entry in entries),
        elsewhere_uj=sum(entry.unmeasured_uj + entry.unobserved_uj for entry in entries),
        unbalanced=unbalanced,
        true_uj=round(1e6 * sum(_true_j(course, entries, read.gpu) / gpus for read in reads)),
        joules_per_token=_joules_per_token(steady, entries),
    )


def _joules_per_token(steady: Steady, entries: list[BookEntry]) -> float | None:
    """What the books gave to requests per token made, over the whole intervals of the steady state."""
    course = steady.course
    begin_us, end_us = _micros(steady.begin_s), _micros(steady.end_s)
    inside = [entry for entry in entries if begin_us <= entry.t0_us and entry.t1_us <= end_us]
    if not inside:
        return None
    first_us, last_us = min(entry.t0_us for entry in inside), max(entry.t1_us for entry in inside)
    # A step that an edge cuts counts in part, as its energy does.
    made = np.interp(
        (np.array([first_us, last_us]) - T0_US) / 1e6,
        np.concatenate([[0.0], course.step_end_s]),
        np.concatenate([[0.0], np.cumsum(course.step_tokens)]),
    )
    return sum(entry.requests_uj for entry in inside) / 1e6 / float(made[1] - made[0])


def _true_j(course: Course, entries: list[BookEntry], gpu: str) -> float:
    """Energy that all GPUs drew in the time that the books of one cover, in joules."""
    own = sorted((entry for entry in entries if entry.gpu == gpu), key=lambda entry: entry.t0_us)
    covered_us = (own[0].t1_us - own[0].covered_us, own[-1].t0_us + own[-1].covered_us)
    begin_j, end_j = course.energy_at((np.array(covered_us) - T0_US) / 1e6)
    return float(end_j - begin_j)


def _micros(time_s: float) -> int:
    return T0_US + round(time_s * 1e6)


def _reads(course: Course, gpus: int, number: int) -> CounterReads:
    """All reads of one GPU, in one event: the ledger is told them piece by piece."""
    end_s = float(course.time_s[-1])
    written_s = np.arange(COUNTER_S * (number + 1) / (gpus + 1), end_s, COUNTER_S)
    shown_mj = np.floor(course.energy_at(np.maximum(written_s - LAG_S, 0.0)) / gpus * 1000).astype(np.int64)
    moments_s = np.stack([written_s - 2 * READ_S, written_s + READ_S], axis=1).ravel()
    seen_mj = np.stack([np.concatenate([shown_mj[:1], shown_mj[:-1]]), shown_mj], axis=1).ravel()
    lo_us = np.round(moments_s * 1e6).astype(np.int64) + T0_US
    return CounterReads(
        gpu=f"GPU-{number}",
        t_lo_us=lo_us.tolist(),
        t_hi_us=(lo_us + 100).tolist(),
        energy_mj=(seen_mj + 5_000_000).tolist(),
    )


def _events(course: Course, model: cards.ModelCard, reads: list[CounterReads]) -> list[AnyEvent]:
    timed: Timed = []
    for number, job in enumerate(course.jobs):
        end_s = float(course.step_end_s[-1 if job.cut else job.last_step])
        timed.append((job.arrives_s, 0, _started(number, job)))
        timed.append((end_s, 4, _finished(number, job, end_s)))
        if job.spans:
            first_s = float(course.step_end_s[job.first_step])
            timed.append((first_s, 1, FirstToken(t_us=_micros(first_s), handle=number + 1)))
    timed += _ticks(course)
    for read in reads:
        timed += _pieces(read)
    timed.sort(key=lambda entry: entry[:2])
    return [*_begin(model, reads), *(event for _, _, event in timed)]


def _begin(model: cards.ModelCard, reads: list[CounterReads]) -> list[AnyEvent]:
    gpus = [read.gpu for read in reads]
    return [
        ServiceStarted(t_us=T0_US, source=0, version="benchmark"),
        BackendDeclared(t_us=T0_US, backend=BACKEND, gpus=gpus, model=declared(model)),
        *(
            MeterUp(t_us=T0_US, gpu=gpu, device="virtual", method="nvml-counter", simulated=True)
            for gpu in gpus
        ),
    ]


def _started(number: int, job: Job) -> RequestStarted:
    return RequestStarted(
        t_us=_micros(job.arrives_s),
        handle=number + 1,
        uid=str(number),
        request_id=str(number),
        backend=BACKEND,
        model="m",
        route="/v1/chat/completions",
        streamed=True,
        body_bytes=200 + 4 * job.prompt_tokens,
    )


def _finished(number: int, job: Job, end_s: float) -> RequestFinished:
    if job.cut:  # its client went away: no usage is told
        return RequestFinished(t_us=_micros(end_s), handle=number + 1, status="aborted")
    return RequestFinished(
        t_us=_micros(end_s),
        handle=number + 1,
        status="ok",
        http_status=200,
        usage=Usage(
            prompt_tokens=job.prompt_tokens,
            cached_tokens=job.cached_tokens,
            completion_tokens=job.answer_tokens,
        ),
    )


def _ticks(course: Course) -> Timed:
    """What was streamed since the tick before. The rest of an answer that ended is told by its usage."""
    spans = [(first, last, n + 1) for n, job in enumerate(course.jobs) for first, last in job.spans]
    first, last, handle = np.array(sorted(spans), np.int64).T
    moments_s = np.arange(TICK_S, float(course.time_s[-1]) + TICK_S, TICK_S)
    upto = np.searchsorted(course.step_end_s, moments_s, side="right")
    begun = np.searchsorted(first, upto)
    ticks: Timed = []
    before = 0
    for moment_s, until, some in zip(moments_s.tolist(), upto.tolist(), begun.tolist(), strict=True):
        here = np.flatnonzero(last[:some] >= before)
        counts = np.minimum(last[here] + 1, until) - np.maximum(first[here], before)
        ticks.append((moment_s, 3, _tick(moment_s, handle[here], counts)))
        before = until
    return ticks


def _tick(moment_s: float, handles: Ints, counts: Ints) -> Tick:
    each, where = np.unique(handles, return_inverse=True)
    tokens = np.bincount(where, counts, len(each)).astype(np.int64)
    return Tick(t_us=_micros(moment_s), source=0, handles=each.tolist(), tokens=tokens.tolist())


def _pieces(read: CounterReads, size: int = 10) -> Timed:
    """The reads of a GPU, told half a second at a time."""
    timed: Timed = []
    for start in range(0, len(read.energy_mj), size):
        part = slice(start, start + size)
        piece = CounterReads(
            gpu=read.gpu,
            t_lo_us=read.t_lo_us[part],
            t_hi_us=read.t_hi_us[part],
            energy_mj=read.energy_mj[part],
        )
        timed.append(((piece.t_hi_us[-1] - T0_US) / 1e6, 2, piece))
    return timed
