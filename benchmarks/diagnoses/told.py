"""A fleet's doing, told to a ledger as the live service would: requests, ticks, counters, GPUs.

Energy counters are as in `benchmarks/sweeps/told.py`: each 100 ms a step to the truth of 20 ms before.
Each second an engine shows its own counters and a GPU its power, limit and what holds its clock down.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import floor

import numpy as np

from accounting.events import (
    AnyEvent,
    BackendDeclared,
    CounterReads,
    EngineCounters,
    FirstToken,
    GpuTelemetry,
    MeterUp,
    RequestFinished,
    RequestStarted,
    ServiceStarted,
    Tick,
    Usage,
)
from accounting.ledger import Ledger
from accounting.records import BackendFacts, Output, uid_at
from benchmarks.cards import declared
from benchmarks.diagnoses.fleet import Ask, Served
from benchmarks.sweeps.told import COUNTER_S, LAG_S, READ_S, T0_US, TICK_S
from simulator.virtual import Job

LOOK_S = 1.0
NEAR_LIMIT = 0.97
"""A GPU this near to its limit says that it is held down."""

AFTER_S = 75.0
"""Told beyond the end, so that every minute is complete."""

Timed = tuple[float, int, AnyEvent]


@dataclass(slots=True)
class Phase:
    """What a fleet did from `begin_s` on; `seconds` of it are told."""

    fleet: Sequence[Served]
    begin_s: float
    seconds: float
    brake: str = "sw_power_cap"
    """What a GPU names as the reason when it is at its limit."""


@dataclass(slots=True)
class Teller:
    """Tells phases one after the other to one ledger; keeps what comes out."""

    ledger: Ledger = field(default_factory=Ledger)
    outputs: list[Output] = field(default_factory=list)
    handle: int = 0
    started: bool = False
    totals: dict[str, tuple[int, int, int, int]] = field(default_factory=dict)
    """By backend: steps, prompt tokens, generated tokens, preemptions of the phases before."""
    energy_mj: dict[str, int] = field(default_factory=dict)

    def tell(self, phase: Phase) -> None:
        timed: list[Timed] = []
        if not self.started:
            self.started = True
            first = ServiceStarted(t_us=_us(phase.begin_s), source=0, version="benchmark")
            timed.append((phase.begin_s, -3, first))
        for served in phase.fleet:
            timed += self._replica(served, phase)
        end_s = phase.begin_s + phase.seconds
        timed += [
            (moment, 9, Tick(t_us=_us(moment), source=0))
            for moment in np.arange(phase.begin_s + TICK_S, end_s + TICK_S, TICK_S).tolist()
        ]
        for _, _, event in sorted(timed, key=lambda entry: entry[:2]):
            self.outputs += self.ledger.hear(event)

    def finish(self) -> list[Output]:
        """All that came out, the minutes that were still open included."""
        self.outputs += self.ledger.close()
        told = {(o.backend, o.t0_us) for o in self.outputs if isinstance(o, BackendFacts)}
        self.outputs += [f for f in self.ledger.facts() if (f.backend, f.t0_us) not in told]
        return self.outputs

    def _replica(self, served: Served, phase: Phase) -> Iterator[Timed]:
        begin_s, replica, course = phase.begin_s, served.replica, served.course
        gpus = [f"GPU-{replica.name}-{n}" for n in range(replica.gpus)]
        card = declared(served.replica.physics.model)
        yield begin_s, -2, BackendDeclared(t_us=_us(begin_s), backend=replica.name, gpus=gpus, model=card)
        tdp_mw = round(1000 * replica.tdp_w / replica.gpus)
        limit_mw = tdp_mw if replica.limit_w is None else round(1000 * replica.limit_w / replica.gpus)
        for gpu in gpus:
            if gpu not in self.energy_mj:
                up = MeterUp(
                    t_us=_us(begin_s),
                    gpu=gpu,
                    device="NVIDIA H100 80GB HBM3",
                    method="nvml-counter",
                    simulated=True,
                    power_limit_mw=tdp_mw,
                )
                yield begin_s, -1, up
        handles: list[int] = []
        for ask, job in zip(served.asks, course.jobs, strict=True):
            self.handle += 1
            handles.append(self.handle)
            first_s = float(course.step_end_s[job.first_step])
            at_s = begin_s + (job.arrives_s if replica.waits else _admitted_s(served, job))
            yield at_s, 0, _started(self.handle, ask, at_s, replica.name)
            yield begin_s + first_s, 1, FirstToken(t_us=_us(begin_s + first_s), handle=self.handle)
            ended_s = begin_s + float(course.step_end_s[job.last_step])
            yield ended_s, 3, _last_tick(served, job, self.handle, ended_s, begin_s)
            yield ended_s, 4, _finished(self.handle, ask, ended_s, job.cached_tokens)
        yield from _ticks(served, handles, begin_s)
        yield from self._counters(served, phase)
        for n, gpu in enumerate(gpus):
            yield from self._gpu(served, phase, n, gpu, limit_mw, tdp_mw)

    def _gpu(
        self, served: Served, phase: Phase, number: int, gpu: str, limit_mw: int, default_mw: int
    ) -> Iterator[Timed]:
        count, idle_w = served.replica.gpus, served.replica.idle_w

        def joules(
            times_s: np.ndarray[tuple[int], np.dtype[np.float64]],
        ) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
            at = np.maximum(times_s, 0.0)
            whole = served.course.energy_at(at) + idle_w * np.maximum(at - served.end_s, 0.0)
            return np.asarray(whole / count)

        written_s = np.arange(COUNTER_S * (number + 1) / (count + 1), phase.seconds, COUNTER_S)
        base_mj = self.energy_mj.get(gpu, 5_000_000)
        shown = base_mj + np.floor(1000 * joules(written_s - LAG_S)).astype(np.int64)
        moments = np.stack([written_s - 2 * READ_S, written_s + READ_S], axis=1).ravel()
        seen = np.stack([np.concatenate([[base_mj], shown[:-1]]), shown], axis=1).ravel()
        lo_us = np.round((phase.begin_s + moments) * 1e6).astype(np.int64) + T0_US
        for start in range(0, len(seen), 10):
            part = slice(start, start + 10)
            read = CounterReads(
                gpu=gpu,
                t_lo_us=lo_us[part].tolist(),
                t_hi_us=(lo_us[part] + 100).tolist(),
                energy_mj=seen[part].tolist(),
            )
            yield (read.t_hi_us[-1] - T0_US) / 1e6, 2, read
        self.energy_mj[gpu] = int(shown[-1])
        looks_s = np.arange(LOOK_S, phase.seconds, LOOK_S)
        power_w = np.diff(joules(np.concatenate([looks_s[:1] - LOOK_S, looks_s]))) / LOOK_S
        for at_s, drawn_w in zip(looks_s.tolist(), power_w.tolist(), strict=True):
            held = 1000 * drawn_w >= NEAR_LIMIT * limit_mw
            telemetry = GpuTelemetry(
                t_us=_us(phase.begin_s + at_s),
                gpu=gpu,
                power_mw=round(1000 * drawn_w),
                power_limit_mw=limit_mw,
                default_power_limit_mw=default_mw,
                clock_reasons=[phase.brake] if held else [],
            )
            yield phase.begin_s + at_s, 5, telemetry

    def _counters(self, served: Served, phase: Phase) -> Iterator[Timed]:
        course, looks = served.course, served.course.looks
        name = served.replica.name
        before = self.totals.get(name, (0, 0, 0, 0))
        order = sorted(range(len(course.jobs)), key=lambda n: course.jobs[n].first_step)
        firsts = np.array([course.step_end_s[course.jobs[n].first_step] for n in order])
        prompts = np.concatenate([[0], np.cumsum([course.jobs[n].prompt_tokens for n in order])])
        made = np.concatenate([[0.0], np.cumsum(course.step_tokens)])
        for at_s in np.arange(LOOK_S, phase.seconds, LOOK_S).tolist():
            steps = int(np.searchsorted(course.step_end_s, at_s, side="right"))
            after = int(np.searchsorted(looks[:, 0], at_s))
            idle = after == len(looks) or (after > 0 and looks[after - 1, 1] + looks[after - 1, 2] == 0)
            row = np.zeros(5) if idle else looks[after]
            preempted = 0 if after == 0 else int(looks[min(after, len(looks) - 1), 4])
            counters = EngineCounters(
                t_us=_us(phase.begin_s + at_s),
                backend=name,
                steps=before[0] + steps,
                running=int(row[1]),
                waiting=int(row[2]) if served.replica.waits else 0,
                prompt_tokens=before[1] + int(prompts[np.searchsorted(firsts, at_s, side="right")]),
                cached_tokens=0,
                generation_tokens=before[2] + int(made[steps]),
                preemptions=before[3] + preempted,
                kv_used=float(row[3]),
            )
            yield phase.begin_s + at_s, 6, counters
        last = (steps, int(prompts[-1]), int(made[-1]), int(looks[-1, 4]) if len(looks) else 0)
        self.totals[name] = tuple(a + b for a, b in zip(before, last, strict=True))  # type: ignore[assignment]


def _us(time_s: float) -> int:
    return T0_US + round(time_s * 1e6)


def _admitted_s(served: Served, job: Job) -> float:
    """When it got its seat: at the end of the step before its first."""
    before_s = float(served.course.step_end_s[job.first_step - 1]) if job.first_step else 0.0
    return max(before_s, job.arrives_s)


def _started(handle: int, ask: Ask, at_s: float, backend: str) -> RequestStarted:
    return RequestStarted(
        t_us=_us(at_s),
        handle=handle,
        uid=f"{uid_at(_us(at_s))}{handle:020x}",
        request_id=str(handle),
        backend=backend,
        model="m",
        route="/v1/chat/completions",
        streamed=True,
        body_bytes=200 + 4 * ask.prompt_tokens,
    )


def _finished(handle: int, ask: Ask, at_s: float, cached: int) -> RequestFinished:
    if ask.leaves is not None:
        return RequestFinished(t_us=_us(at_s), handle=handle, status="aborted")
    usage = Usage(prompt_tokens=ask.prompt_tokens, cached_tokens=cached, completion_tokens=ask.answer_tokens)
    return RequestFinished(t_us=_us(at_s), handle=handle, status="ok", http_status=200, usage=usage)


def _last_tick(served: Served, job: Job, handle: int, ended_s: float, begin_s: float) -> Tick:
    """What came since the last tick is said before the end, as the service does."""
    ticked_s = floor((ended_s - begin_s) / TICK_S) * TICK_S
    ended = served.course.step_end_s[: job.last_step + 1]
    since = int(np.searchsorted(ended, ticked_s, side="right"))
    tokens = sum(max(last + 1 - max(first, since), 0) for first, last in job.spans)
    return Tick(t_us=_us(ended_s), source=0, handles=[handle], tokens=[tokens])


def _ticks(served: Served, handles: list[int], begin_s: float) -> Iterator[Timed]:
    """Tokens that were streamed since the tick before."""
    course = served.course
    spans = sorted(
        (first, last, handle)
        for job, handle in zip(course.jobs, handles, strict=True)
        for first, last in job.spans
    )
    if not spans:
        return
    first, last, whose = np.array(spans, np.int64).T
    moments = np.arange(TICK_S, served.end_s + TICK_S, TICK_S)
    upto = np.searchsorted(course.step_end_s, moments, side="right")
    begun = np.searchsorted(first, upto)
    before = 0
    alive = np.arange(0)
    known = 0
    for moment, until, some in zip(moments.tolist(), upto.tolist(), begun.tolist(), strict=True):
        alive = np.concatenate([alive[last[alive] >= before], np.arange(known, some)])
        known = some
        counts = np.minimum(last[alive] + 1, until) - np.maximum(first[alive], before)
        some_made = alive[counts > 0]
        each, where = np.unique(whose[some_made], return_inverse=True)
        tokens = np.bincount(where, counts[counts > 0], len(each)).astype(np.int64)
        if len(each):
            tick = Tick(t_us=_us(begin_s + moment), source=0, handles=each.tolist(), tokens=tokens.tolist())
            yield begin_s + moment, 3, tick
        before = until
