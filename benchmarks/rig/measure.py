"""The figures of one system: the same loads one after the other; one core for it, another for the rig."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, fields
from statistics import median

import httpx
import numpy as np

from benchmarks.rig.build import RigError
from benchmarks.rig.driver import Counts, Load, Rig
from benchmarks.rig.processes import cpu_s, memory_bytes
from benchmarks.rig.systems import OURS, Running, System

IN_FLIGHT = 64
STREAMS = 200
INTERVAL_US = 10_000
RAMP_MS = 1010
"""5.05 ms between two streams, so that 200 of them come evenly over the 10 ms."""
ENDLESS = 0xFF_FFFF
IDLE_INTERVAL_US = 60_000_000
DRAIN_S = 60.0
HANG_UP_S = 2.0
MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How long each load is measured; `soak_s` 0: memory is not watched."""

    warm_s: float = 0.5
    window_s: float = 2.0
    idle_streams: int = 5_000
    idle_ramp_s: float = 2.5
    soak_s: float = 0.0


@dataclass(kw_only=True)
class Figures:
    """Of one system. CPU is user and system time of all its processes. None: not measured.

    `added_*` is the time from request to answer with one in flight, less that without a proxy. With
    `chunks_per_read` above 1 chunks came late and together, which costs less. `soak_growth_mib` is by how
    much memory grew in the second half of the soak. `hangs_up`: whether the engine is rid of quiet streams
    HANG_UP_S after their clients left. `faults`: what clients saw go wrong.
    """

    request_cpu_us: float | None = None
    requests_per_s: float | None = None
    chunk_cpu_us: float | None = None
    chunks_per_s: float | None = None
    added_p50_us: float | None = None
    added_p99_us: float | None = None
    chunk_p99_us: float | None = None
    chunks_per_read: float | None = None
    idle_mib: float | None = None
    soak_mib_per_min: float | None = None
    soak_growth_mib: float | None = None
    hangs_up: bool | None = None
    faults: list[str] = field(default_factory=list)


def direct(rig: Rig, plan: Plan) -> Counts:
    """Latencies without any proxy."""
    return _latency(rig, Running(pid=0, port=rig.engine_port), plan)


def measure(system: System, running: Running, rig: Rig, plan: Plan, without: Counts) -> Figures:
    """All figures of a system that runs. Raises RigError when it cannot do what is asked at all."""
    figures = Figures()
    seen = _latency(rig, running, plan)
    _check(figures, "one request at a time", seen)
    figures.added_p50_us = _less(seen.whole_us.p50_us, without.whole_us.p50_us)
    figures.added_p99_us = _less(seen.whole_us.p99_us, without.whole_us.p99_us)
    _whole(figures, rig, running, plan)
    _paced(figures, rig, running, plan, slow=system.slow)
    _lockstep(figures, rig, running, plan)
    _idle(figures, rig, running, plan, slow=system.slow)
    if plan.soak_s:
        _soak(figures, rig, running, plan)
    if system is OURS:
        _books(figures, running)
    return figures


def medians(rounds: list[Figures]) -> Figures:
    """Each figure's median over the rounds that have it; all faults."""
    found = Figures(faults=list(dict.fromkeys(fault for one in rounds for fault in one.faults)))
    told = [one.hangs_up for one in rounds if one.hangs_up is not None]
    found.hangs_up = all(told) if told else None
    for place in fields(Figures):
        values = [value for one in rounds if isinstance(value := getattr(one, place.name), float)]
        if values:
            setattr(found, place.name, median(values))
    return found


def _load(running: Running, **values: int | bool) -> Load:
    return Load(port=running.port, model=running.model, headers=running.headers, **values)  # type: ignore[arg-type]


def _latency(rig: Rig, running: Running, plan: Plan) -> Counts:
    rig.load(_load(running))
    time.sleep(plan.warm_s)
    rig.window()
    time.sleep(plan.window_s / 2)
    return rig.finish(DRAIN_S)


def _whole(figures: Figures, rig: Rig, running: Running, plan: Plan) -> None:
    rig.load(_load(running, connections=IN_FLIGHT))
    time.sleep(plan.warm_s)
    used_s, took_s, before, after = _window(rig, running, plan.window_s)
    _check(figures, "not streamed", rig.finish(DRAIN_S))
    answers = after.ok - before.ok
    figures.requests_per_s = answers / took_s
    figures.request_cpu_us = used_s / answers * 1e6 if answers else None


def _paced(figures: Figures, rig: Rig, running: Running, plan: Plan, *, slow: bool) -> None:
    lasts_s = RAMP_MS / 1e3 + plan.warm_s + plan.window_s
    tokens = 60 if slow else round(lasts_s * 1e6 / INTERVAL_US)
    rig.load(
        _load(
            running,
            connections=STREAMS,
            requests=STREAMS,
            tokens=tokens,
            interval_us=INTERVAL_US,
            ramp_ms=RAMP_MS,
            streamed=True,
        )
    )
    time.sleep(RAMP_MS / 1e3 + (0.0 if slow else plan.warm_s))
    rig.window()
    used_s, _, before, after = _window(rig, running, plan.window_s * 0.9)
    figures.chunk_p99_us = after.chunk_us.p99_us
    chunks = after.chunks - before.chunks
    figures.chunk_cpu_us = used_s / chunks * 1e6 if chunks else None
    figures.chunks_per_read = chunks / max(after.reads - before.reads, 1)
    _check(figures, "streams at 10 ms", rig.finish(DRAIN_S), wanted=STREAMS)


def _lockstep(figures: Figures, rig: Rig, running: Running, plan: Plan) -> None:
    rig.load(_load(running, connections=STREAMS, tokens=ENDLESS, lockstep=True, streamed=True))
    rig.until(lambda counts: counts.engine_open >= STREAMS, "all streams open", DRAIN_S)
    time.sleep(plan.warm_s)
    _, took_s, before, after = _window(rig, running, plan.window_s * 0.75)
    figures.chunks_per_s = (after.chunks - before.chunks) / took_s
    _check(figures, "streams in lockstep", after)
    _drop(figures, rig)


def _idle(figures: Figures, rig: Rig, running: Running, plan: Plan, *, slow: bool) -> None:
    ramp_s = plan.idle_ramp_s * (10 if slow else 1)
    rig.load(
        _load(
            running,
            connections=plan.idle_streams,
            requests=plan.idle_streams,
            tokens=2,
            interval_us=IDLE_INTERVAL_US,
            ramp_ms=round(ramp_s * 1e3),
            streamed=True,
        )
    )
    try:
        rig.until(lambda seen: seen.engine_open >= plan.idle_streams, "all idle streams open", ramp_s + 20)
    except RigError:
        seen = rig.sample()
        figures.faults.append(
            gave_up(plan.idle_streams, seen.engine_open, ramp_s + 20, seen.first_fault[:120])
        )
    else:
        time.sleep(plan.warm_s)
        figures.idle_mib = memory_bytes(running.pid) / MIB
        _check(figures, "idle streams", rig.sample())
    _drop(figures, rig)


def gave_up(wanted: int, there: int, after_s: float, fault: str) -> str:
    """What to say of a proxy that held too few open; `fault`: the first that a client saw, if any."""
    said = f"only {there:,} of {wanted:,} idle streams were open after {after_s:.0f} s"
    return f"{said}: {fault}" if fault else said


def _soak(figures: Figures, rig: Rig, running: Running, plan: Plan) -> None:
    rig.load(
        _load(
            running,
            connections=50,
            ramp_ms=300,
            tokens=20,
            interval_us=INTERVAL_US,
            think_us=100_000,
            whole_every=2,
            streamed=True,
        )
    )
    began, samples = time.monotonic(), list[tuple[float, float]]()
    while (at_s := time.monotonic() - began) < plan.soak_s:
        samples.append((at_s, memory_bytes(running.pid) / MIB))
        time.sleep(plan.soak_s / 60)
    _check(figures, "soak", rig.finish(DRAIN_S))
    half = np.array(samples[len(samples) // 2 :])
    figures.soak_mib_per_min = float(np.polyfit(half[:, 0] / 60, half[:, 1], 1)[0])
    figures.soak_growth_mib = float(half[-5:, 1].mean() - half[:5, 1].mean())


def _books(figures: Figures, running: Running) -> None:
    """joulegate's own: accounting was on, and its books balance."""
    base = f"http://127.0.0.1:{running.port}/v1/energy"
    total = httpx.get(f"{base}/books", timeout=60.0).raise_for_status().json()["total"]
    if not total or not total["balanced"] or not total["requests_uj"]:
        figures.faults.append(f"books: {total}")


def _window(rig: Rig, running: Running, window_s: float) -> tuple[float, float, Counts, Counts]:
    """CPU seconds used, seconds passed, and the counts at both ends."""
    before, used_s = rig.sample(), cpu_s(running.pid)
    time.sleep(window_s)
    after, used_s = rig.sample(), cpu_s(running.pid) - used_s
    return used_s, (after.t_us - before.t_us) / 1e6, before, after


def _drop(figures: Figures, rig: Rig) -> None:
    """Close the load's connections; the proxy has to hang up on the engine, too, though it says nothing."""
    rig.drop()
    try:
        rig.until(lambda counts: counts.engine_open == 0, "the engine rid of dropped streams", HANG_UP_S)
        figures.hangs_up = figures.hangs_up is not False
    except RigError:
        figures.hangs_up = False
        rig.cut()


def _check(figures: Figures, what: str, seen: Counts, wanted: int | None = None) -> None:
    if seen.failed or (wanted is not None and seen.ok != wanted):
        of = wanted if wanted is not None else seen.started
        figures.faults.append(f"{what}: {of - seen.ok} of {of} not answered right; {seen.first_fault[:120]}")


def _less(value: float | None, by: float | None) -> float | None:
    return None if value is None or by is None else value - by
