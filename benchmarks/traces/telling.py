"""A run told as the live service would: the events of accounting/events.py, in the order of a journal.

Requests and first tokens are said when they pass; counts of stream events and the meter's reads every 50 ms;
and at the end of a request first a tick, then its end with what the engine reports. An answer in one piece
shows nothing before.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from accounting.events import (
    AnyEvent,
    BackendDeclared,
    CounterReads,
    EngineCounters,
    EngineTimes,
    FirstToken,
    MeterUp,
    RequestFinished,
    RequestStarted,
    ServiceStarted,
    Tick,
    Usage,
)
from benchmarks.cards import declared
from benchmarks.traces.counter import Reads
from benchmarks.traces.demand import Request
from benchmarks.traces.engine import Outcome, Run
from benchmarks.traces.scenario import Scenario

T0_US = 1_790_000_000_000_000
"""When virtual time begins, in UTC microseconds."""

BACKEND = "engine"
TICK_S = 0.05
BACK_S = 0.001
"""From the engine to the proxy, at least; BACK_SPREAD_S more on average."""

BACK_SPREAD_S = 0.0005
FIRST_HANDLE = 1

Ints = NDArray[np.int64]
Timed = list[tuple[float, int, AnyEvent]]
STARTED, FIRST, READS, TICK, COUNTERS, FINISHED = range(6)
"""Order of events of the same moment."""


def micros(time_s: float) -> int:
    return T0_US + round(time_s * 1e6)


def handle_of(number: int) -> int:
    """The handle of the request with this number."""
    return FIRST_HANDLE + number


def tell(scenario: Scenario, requests: list[Request], run: Run, reads: list[Reads]) -> list[AnyEvent]:
    """All events, in order."""
    random = np.random.default_rng([scenario.seed, 3])
    back_s = BACK_S + random.exponential(BACK_SPREAD_S, len(run.step_end_s))
    passed_s = np.maximum.accumulate(run.step_end_s + back_s)
    timed: Timed = []
    ends_s: list[float] = []
    for number, (request, outcome) in enumerate(zip(requests, run.outcomes, strict=True)):
        if not request.seen:
            continue
        end_s = float(passed_s[max(outcome.last_steps)])
        first_s = float(passed_s[outcome.first_step])
        ends_s.append(end_s)
        timed.append((request.arrived_s, STARTED, _started(number, request)))
        if request.streamed:
            first = FirstToken(t_us=micros(first_s), handle=handle_of(number))
            timed.append((first_s, FIRST, first))
        timed.append((end_s, FINISHED, _finished(number, request, outcome, scenario, run, end_s)))
    until_s = float(run.time_s[-1])
    grid_s = np.arange(TICK_S, until_s + TICK_S, TICK_S)
    timed += _ticks(requests, run, passed_s, np.sort(np.concatenate([grid_s, ends_s])))
    timed += _reads(reads, grid_s)
    if scenario.counters:
        timed += _counters(requests, run, until_s)
    timed.sort(key=lambda entry: entry[:2])
    return [*_begin(scenario), *(event for _, _, event in timed)]


def _counters(requests: list[Request], run: Run, until_s: float) -> Timed:
    """The engine's totals about each second, over all requests, also those that the proxy does not see."""
    generated = np.zeros(len(run.step_end_s) + 1)
    prompt, cached = np.zeros_like(generated), np.zeros_like(generated)
    for request, outcome in zip(requests, run.outcomes, strict=True):
        prompt[outcome.first_step] += request.prompt_tokens
        cached[outcome.first_step] += request.cached_tokens
        for tokens, last in zip(request.outputs, outcome.last_steps, strict=True):
            generated[outcome.first_step : last + 1] += tokens / (last + 1 - outcome.first_step)
    totals = [np.cumsum(column) for column in (generated, prompt, cached)]
    came, began, ended = (
        np.sort(times)
        for times in (
            [request.arrived_s for request in requests],
            [outcome.scheduled_s for outcome in run.outcomes],
            [run.step_end_s[max(outcome.last_steps)] for outcome in run.outcomes],
        )
    )
    timed: Timed = []
    for at_s in np.arange(0.37, until_s, 1.003):
        step = int(np.searchsorted(run.step_end_s, at_s))
        g, p, c = (int(total[step - 1]) if step else 0 for total in totals)
        arrived, scheduled, over = (int(np.searchsorted(times, at_s)) for times in (came, began, ended))
        event = EngineCounters(
            t_us=micros(at_s),
            backend=BACKEND,
            steps=step,
            running=scheduled - over,
            waiting=arrived - scheduled,
            generation_tokens=g,
            prompt_tokens=p,
            cached_tokens=c,
        )
        timed.append((float(at_s), COUNTERS, event))
    return timed


def _begin(scenario: Scenario) -> list[AnyEvent]:
    card = declared(scenario.model)
    gpus = [f"GPU-{k}" for k in range(scenario.gpus)]
    return [
        ServiceStarted(t_us=T0_US, source=0, version="benchmark"),
        BackendDeclared(t_us=T0_US, backend=BACKEND, gpus=gpus, model=card),
        *(
            MeterUp(t_us=T0_US, gpu=gpu, device=scenario.gpu.name, method="nvml-counter", simulated=True)
            for gpu in gpus
        ),
    ]


def _started(number: int, request: Request) -> RequestStarted:
    return RequestStarted(
        t_us=micros(request.arrived_s),
        handle=handle_of(number),
        uid=str(number),
        request_id=str(number),
        backend=BACKEND,
        model="m",
        route="/v1/chat/completions",
        tenant=request.tenant,
        streamed=request.streamed,
        body_bytes=request.body_bytes,
        sequences=len(request.outputs),
    )


def _finished(
    number: int, request: Request, outcome: Outcome, scenario: Scenario, run: Run, end_s: float
) -> RequestFinished:
    times = None
    if scenario.engine_times:
        first_s, last_s = run.step_end_s[outcome.first_step], run.step_end_s[max(outcome.last_steps)]
        times = EngineTimes(
            queue_ms=(outcome.scheduled_s - request.arrived_s) * 1e3,
            first_token_ms=float(first_s - outcome.scheduled_s) * 1e3,
            generation_ms=float(last_s - first_s) * 1e3,
        )
    return RequestFinished(
        t_us=micros(end_s),
        handle=handle_of(number),
        status="ok",
        http_status=200,
        usage=Usage(
            prompt_tokens=request.prompt_tokens,
            cached_tokens=request.cached_tokens,
            completion_tokens=sum(request.outputs),
        ),
        times=times,
    )


def _ticks(
    requests: list[Request], run: Run, passed_s: NDArray[np.float64], moments_s: NDArray[np.float64]
) -> Timed:
    """A tick for each moment, with the stream events since the one before: one per sequence and step."""
    spans = [
        (outcome.first_step, last, handle_of(number))
        for number, (request, outcome) in enumerate(zip(requests, run.outcomes, strict=True))
        if request.seen and request.streamed
        for last in outcome.last_steps
    ]
    first, last, handle = np.array(spans, np.int64).reshape(-1, 3).T
    upto = np.searchsorted(passed_s, moments_s, side="right")
    ticks: Timed = []
    before = 0
    for moment_s, until in zip(moments_s.tolist(), upto.tolist(), strict=True):
        here = np.flatnonzero((first < until) & (last >= before))
        counts = np.minimum(last[here] + 1, until) - np.maximum(first[here], before)
        handles, tokens = _joined(handle[here], counts)
        tick = Tick(t_us=micros(moment_s), source=0, handles=handles, tokens=tokens)
        ticks.append((moment_s, TICK, tick))
        before = until
    return ticks


def _joined(handles: Ints, counts: Ints) -> tuple[list[int], list[int]]:
    """One entry for each handle that has any count."""
    handles, counts = handles[counts > 0], counts[counts > 0]
    each, where = np.unique(handles, return_inverse=True)
    return each.tolist(), np.bincount(where, counts, len(each)).astype(np.int64).tolist()


def _reads(reads: list[Reads], grid_s: NDArray[np.float64]) -> Timed:
    """The reads taken since the moment before, said at each moment."""
    timed: Timed = []
    for gpu in reads:
        upto = np.searchsorted(gpu.hi_s, grid_s, side="right").tolist()
        lo_us = [micros(t) for t in gpu.lo_s.tolist()]
        hi_us = [micros(t) for t in gpu.hi_s.tolist()]
        energy_mj = gpu.energy_mj.tolist()
        before = 0
        for moment_s, until in zip(grid_s.tolist(), upto, strict=True):
            if until > before:
                event = CounterReads(
                    gpu=gpu.gpu,
                    t_lo_us=lo_us[before:until],
                    t_hi_us=hi_us[before:until],
                    energy_mj=energy_mj[before:until],
                )
                timed.append((moment_s, READS, event))
            before = until
    return timed
