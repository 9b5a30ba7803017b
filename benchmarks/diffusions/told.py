"""Images and videos in virtual time told to the ledger as the live service would, and what it concludes.

The counter of each GPU is a staircase: every 100 ms (each GPU at its own moments) it shows the true energy of
20 ms before, in whole millijoules; a read falls right before and right after each of its steps. The end of an
image is known when its answer passes; that of a video job when the proxy's poller looks the next time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from accounting.events import (
    AnyEvent,
    BackendDeclared,
    CounterReads,
    EngineCounters,
    JobStarted,
    Media,
    MeterUp,
    ModelCard,
    RequestFinished,
    RequestStarted,
    ServiceStarted,
    Tick,
)
from accounting.ledger import Ledger
from accounting.records import BookEntry, Correction, Output, RequestRecord, corrected
from simulator.diffusion.cards import Kind
from simulator.diffusion.virtual import VirtualJob

T0_US = 1_790_000_000_000_000
"""When virtual time begins, in UTC microseconds."""

BACKEND = "diffusion"
WAY_S = 0.001
"""Between proxy and server, each way."""

POLL_FIRST_S, POLL_PART = 0.25, 0.02
"""The proxy looks after a job this often, or after this part of its age."""

LOOK_S = 1.0
"""Between two looks at the server's /metrics."""

COUNTER_S, LAG_S, READ_S, TELL_S = 0.1, 0.02, 0.001, 0.5

Floats = NDArray[np.float64]
Timed = list[tuple[float, int, AnyEvent]]
STARTED, JOB, FIRST, READS, COUNTERS, TICK, FINISHED = range(7)
"""Order of events of the same moment."""


@dataclass(frozen=True, slots=True)
class Curve:
    """Cumulative energy of all GPUs together, linear between the points."""

    time_s: Floats
    energy_j: Floats
    gpus: int = 1

    def at(self, time_s: Floats) -> Floats:
        return np.interp(time_s, self.time_s, self.energy_j)

    @property
    def end_s(self) -> float:
        return float(self.time_s[-1])


@dataclass(slots=True)
class Concluded:
    """All that the ledger concluded; records by uid, corrections put in."""

    records: dict[str, RequestRecord] = field(default_factory=dict)
    books: list[BookEntry] = field(default_factory=list)

    def take(self, outputs: Sequence[Output]) -> None:
        for output in outputs:
            match output:
                case RequestRecord():
                    self.records[output.uid] = output
                case Correction():
                    self.records[output.uid] = corrected(self.records[output.uid], output)
                case BookEntry():
                    self.books.append(output)

    @property
    def balanced(self) -> bool:
        """Every entry is the sum of its parts, and the records hold what the books gave to requests,
        exactly."""
        parts = all(
            entry.requests_uj + entry.idle_uj + entry.unobserved_uj + entry.unmeasured_uj
            == (entry.measured_uj or 0)
            for entry in self.books
        )
        booked = sum(entry.requests_uj for entry in self.books)
        return parts and booked == sum(record.energy_uj or 0 for record in self.records.values())

    def joules(self, uid: str) -> float:
        record = self.records.get(uid)
        return (record.energy_uj or 0) / 1e6 if record is not None else 0.0


def micros(time_s: float) -> int:
    return T0_US + round(time_s * 1e6)


def settle(timed: Timed, curve: Curve, begin: Sequence[AnyEvent], ticks: Timed | None = None) -> Concluded:
    """Tell a fresh ledger all of it, the meter's reads between. `ticks`: those with tokens; None: without."""
    gpus = [f"GPU-{number}" for number in range(curve.gpus)]
    ledger, done = Ledger(), Concluded()
    whole = [*timed, *_reads(curve), *(_ticks(curve.end_s) if ticks is None else ticks)]
    whole.sort(key=lambda entry: entry[:2])
    head: list[AnyEvent] = [ServiceStarted(t_us=T0_US, source=0, version="benchmark"), *begin]
    head += [
        MeterUp(t_us=T0_US, gpu=gpu, device="virtual H100", method="nvml-counter", simulated=True)
        for gpu in gpus
    ]
    for event in (*head, *(event for _, _, event in whole)):
        done.take(ledger.hear(event))
    done.take(ledger.close())
    return done


def declared(
    gpus: int, at_once: int | None, backend: str = BACKEND, model: ModelCard | None = None
) -> AnyEvent:
    names = [f"GPU-{number}" for number in range(gpus)]
    return BackendDeclared(t_us=T0_US, backend=backend, gpus=names, at_once=at_once, model=model)


def tell(jobs: Sequence[VirtualJob], kind: Kind, fps: float | None, first_handle: int = 1) -> Timed:
    """Requests, jobs and their ends. The uid of the k-th job is `m<k>`."""
    timed: Timed = []
    for number, job in enumerate(jobs):
        handle, shape = first_handle + number, job.shape
        media = Media(
            kind=kind,
            count=job.outputs,
            width=shape.width,
            height=shape.height,
            steps=shape.steps,
            frames=shape.frames if kind == "video" else None,
            fps=fps,
        )
        started = RequestStarted(
            t_us=micros(job.arrives_s - WAY_S),
            handle=handle,
            uid=f"m{number}",
            request_id=f"m{number}",
            backend=BACKEND,
            model="m",
            route="/v1/videos" if kind == "video" else "/v1/images/generations",
            media=media,
        )
        timed.append((job.arrives_s - WAY_S, STARTED, started))
        if kind == "video":
            begun = JobStarted(t_us=micros(job.arrives_s + WAY_S), handle=handle, job=f"video_{number}")
            timed.append((job.arrives_s + WAY_S, JOB, begun))
        timed.append(_finished(job, handle, kind))
    return timed


def _finished(job: VirtualJob, handle: int, kind: Kind) -> tuple[float, int, AnyEvent]:
    left_s = job.leaves_s
    if (left_s is not None and left_s < job.ends_s) or job.begins_s is None:
        at_s = left_s if left_s is not None else job.ends_s
        gone = RequestFinished(t_us=micros(at_s), handle=handle, status="aborted", goes_on=True)
        return at_s, FINISHED, gone
    end_s, told_s = job.ends_s + WAY_S, job.ends_s + WAY_S
    if kind == "video":
        end_s, told_s = _seen(job.arrives_s, job.ends_s)
    return told_s, FINISHED, RequestFinished(t_us=micros(end_s), handle=handle, status="ok", http_status=200)


def _seen(begin_s: float, end_s: float) -> tuple[float, float]:
    """When the poller takes a job to have ended, and when it sees that: between two looks the middle, as far
    as the server's `completed_at`, in whole seconds, leaves it open."""
    look_s = before_s = begin_s
    while look_s < end_s:
        before_s, look_s = look_s, look_s + max(POLL_FIRST_S, POLL_PART * (look_s - begin_s))
    low_s, high_s = max(before_s, np.floor(end_s)), min(look_s, np.floor(end_s) + 1)
    return float(low_s + high_s) / 2, look_s


def counts(jobs: Sequence[VirtualJob], until_s: float, backend: str = BACKEND) -> Timed:
    """What vLLM-Omni's /metrics say: who runs and who waits, without those that nobody waits for any more."""
    timed: Timed = []
    for at_s in np.arange(0.37, until_s, LOOK_S).tolist():
        here = [
            job
            for job in jobs
            if job.arrives_s <= at_s < job.ends_s and (job.leaves_s is None or at_s < job.leaves_s)
        ]
        running = sum(job.begins_s is not None and job.begins_s <= at_s for job in here)
        event = EngineCounters(
            t_us=micros(at_s), backend=backend, running=running, waiting=len(here) - running
        )
        timed.append((at_s, COUNTERS, event))
    return timed


def _ticks(until_s: float) -> Timed:
    return [
        (float(at_s), TICK, Tick(t_us=micros(at_s), source=0))
        for at_s in np.arange(TELL_S, until_s + TELL_S, TELL_S)
    ]


def _reads(curve: Curve) -> Timed:
    """The reads of all GPUs, told half a second at a time."""
    timed: Timed = []
    for number in range(curve.gpus):
        written_s = np.arange(COUNTER_S * (number + 1) / (curve.gpus + 1), curve.end_s, COUNTER_S)
        shown_mj = np.floor(curve.at(np.maximum(written_s - LAG_S, 0.0)) / curve.gpus * 1000).astype(np.int64)
        moments_s = np.stack([written_s - 2 * READ_S, written_s + READ_S], axis=1).ravel()
        seen_mj = np.stack([np.concatenate([shown_mj[:1], shown_mj[:-1]]), shown_mj], axis=1).ravel()
        lo_us = np.round(moments_s * 1e6).astype(np.int64) + T0_US
        size = 2 * round(TELL_S / COUNTER_S)
        for start in range(0, len(lo_us), size):
            part = slice(start, start + size)
            read = CounterReads(
                gpu=f"GPU-{number}",
                t_lo_us=lo_us[part].tolist(),
                t_hi_us=(lo_us[part] + 100).tolist(),
                energy_mj=(seen_mj[part] + 5_000_000).tolist(),
            )
            timed.append((float(moments_s[part][-1]), READS, read))
    return timed
