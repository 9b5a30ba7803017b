"""One interval of the GPUs that share backends: energy to idle, unobserved, unmeasured, and each request."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from accounting.ledger import bypass, jobs
from accounting.ledger.apportion import apportion
from accounting.ledger.curve import Span
from accounting.ledger.facts import Facts
from accounting.ledger.features import Work, present, work_of
from accounting.ledger.flights import Flights
from accounting.ledger.group import Group, learn, note_scale
from accounting.ledger.history import Kept, KeptGpu, lean
from accounting.ledger.hosts import Hosts, Share
from accounting.ledger.intervals import INTERVAL_US, RING, number
from accounting.ledger.jobs import JobWork
from accounting.ledger.jobs_pace import pace
from accounting.ledger.news import dynamic_part, shared_part, split_anew
from accounting.ledger.state import GpuState
from accounting.records import BookEntry

IDLE_SAMPLES = 240
"""Empty intervals that the idle power is learnt from: two minutes of them."""

IDLE_SAMPLES_MIN = 8
LATE_US = 8_000_000
"""An engine that traces tells of a request within this time of its end (OpenTelemetry batches for 5 s)."""

LESSON_US = 60_000_000
"""The model learns from an interval after this time, though more may become known of it."""

COLD_WINDOWS, COLD_LESSON_US = 30, 3_000_000
"""So soon while it has seen so few windows: a rough lesson is better than none."""

COLD_KEPT_US = 120_000_000
"""While it has seen so few, intervals in which a language and a diffusion model worked are kept so long, to
be split by better prices: their priors may be off by different factors."""

UNOBSERVED_FACTOR = 2
"""An empty interval above this multiple of idle power saw work that did not come through the proxy."""

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass
class Settled:
    """What all requests of the group did in the interval. The arrays run over `rows`."""

    rows: Ints
    prefill: Floats
    decode: Floats
    in_flight_us: Ints
    works: list[Work | JobWork]
    others: list[float]
    """By backend: what work for requests that did not pass the proxy should have cost, in joules."""


def settle_group(
    group: Group, flights: Flights, t1_us: int, hosts: Hosts | None = None, facts: Facts | None = None
) -> list[BookEntry]:
    """Book [settled, t1_us) on every GPU of the group, and tell its host and the facts of it.

    Each entry balances, whatever was heard.
    """
    t0_us = group.settled_us
    split_anew(flights, group)
    done = _work(group, flights, t0_us, t1_us)
    for gpu in group.gpus:
        if (idle_uw := idle_power_uw(gpu)) is not None:
            gpu.curve.shape(t1_us, partial(_busy_on, group, gpu, flights), idle_uw)
    spans = [gpu.curve.span(t0_us, t1_us) for gpu in group.gpus]
    entries, charges = [], []
    for gpu, span in zip(group.gpus, spans, strict=True):
        entry, charge, share = _settle_gpu(group, gpu, span, flights, done)
        entries.append(entry)
        charges.append(charge)
        if hosts is not None:
            hosts.note(gpu, entry, share)
    if t1_us - t0_us == INTERVAL_US and all(span.covered_us == INTERVAL_US for span in spans):
        energy_j = sum(entry.requests_uj for entry in entries) / 1e6
        expected_j = float(done.prefill.sum() + done.decode.sum())
        if any(done.others):
            energy_j += sum(entry.unobserved_uj for entry in entries) / 1e6
            expected_j += sum(done.others)
        note_scale(group, expected_j, energy_j)
        handles = [flights.handle[work.rows] for work in done.works]
        works = [lean(work) for work in done.works]
        gpus = [charge for charge in charges if charge is not None]
        busy_us = [busy(flights, work.rows[flights.works[work.rows]], t0_us, t1_us) for work in done.works]
        if facts is not None:
            facts.settled(group, t0_us, done.works, busy_us, entries, charges)
        if energy_j > 0:
            group.history.kept.append(Kept(t0_us, handles, works, gpus, energy_j, busy_us))
    for gpu in group.gpus:
        gpu.settled_us = t1_us
        gpu.curve.forget_before(t1_us)
    _turn_page(flights, group.number, t0_us, t1_us)
    windows, prices = group.model.windows, group.model.coefficients
    for kept in group.history.drop(*_unsure(group, flights, t1_us)):
        _learn(group, kept, facts)
    wait_us = LESSON_US if group.model.windows >= COLD_WINDOWS else COLD_LESSON_US
    for kept in group.history.kept:
        if kept.t1_us + wait_us > t1_us:
            break
        _learn(group, kept, facts)
    if windows < COLD_WINDOWS and _is_mixed(group) and group.model.coefficients is not prices:
        for kept in group.history.kept:
            kept.stale = True
    return entries


def _learn(group: Group, kept: Kept, facts: Facts | None) -> None:
    if learn(group, kept) and facts is not None:
        facts.learnt(group, kept)


def _unsure(group: Group, flights: Flights, t1_us: int) -> tuple[Ints, Ints]:
    """Stretches of time, as begins and ends, of which more may become known up to now, `t1_us`.

    Until its first token nobody knows when a prompt is computed; until the usage, which comes last,
    how long the prompt is and how much of it was cached; and of an answer that is not streamed, anything.
    """
    n = flights.rows
    rows = np.flatnonzero((flights.group[:n] == group.number) & flights.works[:n])
    late = np.array([b.tells_late for b in group.backends], np.bool_)
    mixed = _mixed_cold(group, t1_us)
    if not len(rows):
        return mixed, mixed
    start, end, pre0, pre1 = flights.start[rows], flights.end[rows], flights.pre0[rows], flights.pre1[rows]
    told_late = late[flights.column[rows]] & (end > 0) & (end + LATE_US > t1_us)
    unsure = ~flights.concluded[rows] | told_late
    prompt_only = flights.streamed[rows] & (flights.first[rows] > 0) & ~told_late
    begins, ends = np.where(prompt_only, pre0, start), np.where(prompt_only, pre1, t1_us)
    return np.append(begins[unsure], mixed), np.append(ends[unsure], mixed)


def _is_mixed(group: Group) -> bool:
    """Whether a language and a diffusion model share GPUs."""
    return len({backend.jobs is None for backend in group.backends}) > 1


def _mixed_cold(group: Group, t1_us: int) -> Ints:
    """A moment in each kept interval whose energy several backends share by prices that are little more than
    guessed."""
    if not _is_mixed(group) or group.model.windows >= COLD_WINDOWS:
        return np.zeros(0, np.int64)
    kept = [k for k in group.history.kept if sum(map(bool, map(len, k.handles))) > 1]
    return np.array([k.t0_us for k in kept if k.t1_us > t1_us - COLD_KEPT_US], np.int64)


def _work(group: Group, flights: Flights, t0_us: int, t1_us: int) -> Settled:
    """The work of every request that had part in the interval, in joules as the model sees it."""
    rows = present(flights, group.number, t0_us, t1_us)
    works: list[Work | JobWork] = []
    prefills, decodes, others = [], [], []
    for column, backend in enumerate(group.backends):
        mine = rows[flights.column[rows] == column]
        prices = group.prices(column)
        work: Work | JobWork
        if backend.jobs is not None:
            since_us = int(flights.start[mine].min()) if len(mine) else t0_us
            going = pace(group, flights, column, since_us, t1_us)
            work = jobs.work_of(flights, backend.jobs, mine, t0_us, t1_us, going)
            others.append(0.0)
        else:
            work = work_of(flights, backend, mine, t0_us, t1_us)
            bypass.note(backend, work, t0_us, t1_us)
            if len(mine) and work.tokens.sum() > 0:
                backend.step_joules = work.step_joules(prices)
            others.append(work.others_joules(prices))
        prefill, decode = work.joules(prices)
        works.append(work)
        prefills.append(prefill)
        decodes.append(decode)
    joined = np.concatenate([work.rows for work in works]) if works else np.zeros(0, np.int64)
    prefill = np.concatenate(prefills) if works else np.zeros(0)
    decode = np.concatenate(decodes) if works else np.zeros(0)
    in_flight = np.concatenate([work.in_flight_us for work in works]) if works else np.zeros(0, np.int64)
    active = flights.works[joined]
    return Settled(joined, prefill * active, decode * active, in_flight, works, others)


def _settle_gpu(
    group: Group, gpu: GpuState, span: Span, flights: Flights, done: Settled
) -> tuple[BookEntry, KeptGpu | None, Share]:
    """Its entry, what was charged to whom, and the same in short."""
    entry = BookEntry(
        gpu=gpu.gpu,
        t0_us=span.t0_us,
        t1_us=span.t1_us,
        covered_us=span.covered_us,
        measured_uj=span.measured_uj,
        requests_uj=0,
        idle_uj=0,
        unobserved_uj=0,
        unmeasured_uj=span.unmeasured_uj,
        requests=0,
        method=gpu.method if span.measured_uj is not None else "none",
        simulated=gpu.simulated,
    )
    places = [b.gpus.index(gpu.gpu) if gpu.gpu in b.gpus else -1 for b in group.backends]
    columns, here = _here(places, flights, done)
    rows = done.rows[here]
    flying = done.in_flight_us[here]
    covered = flying * span.covered_us // (span.t1_us - span.t0_us)
    if span.covered_us:
        covered = np.maximum(covered, 1)  # it may be charged, however little of its time was measured
    flights.covered_us[rows, columns] += covered
    flights.uncovered_us[rows, columns] += np.maximum(flying - covered, 0)
    energy = (span.measured_uj or 0) - span.unmeasured_uj
    active = flights.works[rows]
    entry.requests = int(active.sum())
    prefill, decode = done.prefill[here], done.decode[here]
    if not (prefill.sum() + decode.sum()) > 0:
        # No work seen: whoever was in flight shares by time (a long prefill shows nothing until its end).
        decoding = (flights.first[rows] > 0) & (flights.first[rows] < span.t1_us)
        time = (flying * active).astype(np.float64)
        prefill, decode = time * ~decoding, time * decoding
    weights = np.stack([prefill, decode], axis=1).ravel()
    pairs = zip(group.backends, done.others, strict=True)
    others = sum(joules for backend, joules in pairs if gpu.gpu in backend.gpus)
    ours = float(weights.sum())
    if not ours > 0:
        _book_empty(gpu, entry, energy, span, others_seen=others > 0)
        return entry, None, Share(flights.handle[rows], np.zeros(len(rows), np.int64), covered)
    length_us = span.t1_us - span.t0_us
    busy_us = length_us if others > 0 else busy(flights, rows[active], span.t0_us, span.t1_us)
    entry.idle_uj = _idle_part(gpu, energy, length_us - busy_us, span)
    if others > 0:
        entry.unobserved_uj = int(apportion(energy - entry.idle_uj, [ours, others])[1])
    entry.requests_uj = energy - entry.idle_uj - entry.unobserved_uj
    parts, dynamic = _charge(gpu, entry.requests_uj, flights, rows, columns, weights, busy_us, span)
    by_backend, at = [], 0
    for work, place in zip(done.works, places, strict=True):
        count = len(work.rows) if place >= 0 else 0
        by_backend.append(parts[at : at + count])
        at += count
    kept = KeptGpu(gpu.gpu, entry.requests_uj, dynamic, by_backend, places)
    return entry, kept, Share(flights.handle[rows], parts.sum(axis=1), covered)


def _here(places: list[int], flights: Flights, done: Settled) -> tuple[Ints, NDArray[np.bool_]]:
    """Which requests use a GPU, and in which of their columns by GPU it stands (`places`: by backend)."""
    columns = np.array(places, dtype=np.int64)[flights.column[done.rows]] if places else np.zeros(0, np.int64)
    here = columns >= 0
    return columns[here], here


def _book_empty(gpu: GpuState, entry: BookEntry, energy_uj: int, span: Span, *, others_seen: bool) -> None:
    """None of ours was at work: idle, unless others were, or the GPU drew far more than it does at idle."""
    expected = _idle_energy(gpu, span.covered_us)
    if expected is not None and (others_seen or energy_uj > UNOBSERVED_FACTOR * expected):
        entry.unobserved_uj = max(energy_uj - expected, 0)
    entry.idle_uj = energy_uj - entry.unobserved_uj
    if not others_seen and span.covered_us == span.t1_us - span.t0_us:
        gpu.idle_samples_uw.append(energy_uj * 1_000_000 // span.covered_us)
        del gpu.idle_samples_uw[:-IDLE_SAMPLES]


def idle_power_uw(gpu: GpuState) -> int | None:
    """The 10th percentile of empty intervals. None until it is learnt."""
    samples = gpu.idle_samples_uw
    return sorted(samples)[len(samples) // 10] if len(samples) >= IDLE_SAMPLES_MIN else None


def _idle_energy(gpu: GpuState, time_us: int) -> int | None:
    power_uw = idle_power_uw(gpu)
    return None if power_uw is None else power_uw * time_us // 1_000_000


def _idle_part(gpu: GpuState, energy_uj: int, idle_us: int, span: Span) -> int:
    """Energy of the part of the interval in which no request was in flight: at idle power, and no more than
    by time, as a GPU at work draws no less than an idle one."""
    length = span.t1_us - span.t0_us
    by_time = energy_uj * idle_us // length
    learnt = _idle_energy(gpu, idle_us * span.covered_us // length)
    return by_time if learnt is None else min(by_time, learnt)


def busy(flights: Flights, rows: Ints, t0_us: int, t1_us: int) -> int:
    """Time within [t0_us, t1_us) with at least one of the requests in flight."""
    ends = flights.end[rows]
    begin = np.maximum(flights.start[rows], t0_us)
    end = np.where(ends == 0, t1_us, np.minimum(ends, t1_us))
    if not len(rows) or bool(((begin == t0_us) & (end == t1_us)).any()):
        return t1_us - t0_us if len(rows) else 0
    order = np.argsort(begin, kind="stable")
    begin, end = begin[order], end[order]
    reached = np.maximum.accumulate(np.concatenate([[t0_us], end]))
    gained = reached[1:] - np.maximum(reached[:-1], begin)
    return int(np.maximum(gained, 0).sum())


def _busy_on(group: Group, gpu: GpuState, flights: Flights, t0_us: int, t1_us: int) -> int:
    """Time within [t0_us, t1_us) with a request of this GPU in flight."""
    uses = np.array([gpu.gpu in backend.gpus for backend in group.backends], np.bool_)
    n = flights.rows
    rows = np.flatnonzero((flights.group[:n] == group.number) & flights.works[:n])
    rows = rows[uses[flights.column[rows]]] if len(rows) else rows
    ends = flights.end[rows]
    return busy(flights, rows[(flights.start[rows] < t1_us) & ((ends == 0) | (ends > t0_us))], t0_us, t1_us)


def _charge(
    gpu: GpuState,
    energy_uj: int,
    flights: Flights,
    rows: Ints,
    columns: Ints,
    weights: Floats,
    busy_us: int,
    span: Span,
) -> tuple[Ints, float | None]:
    """Charge by the weights (prefill and decode of each row). Returns the parts, shape (rows, 2), and which
    part of the energy was dynamic."""
    parts = apportion(energy_uj, weights).reshape(-1, 2)
    flights.prefill_uj[rows, columns] += parts[:, 0]
    flights.decode_uj[rows, columns] += parts[:, 1]
    got = parts.sum(axis=1)
    share = weights.reshape(-1, 2).sum(axis=1) / weights.sum()
    flights.shared_uj[rows] += shared_part(got, energy_uj)
    static_uj = _idle_energy(gpu, busy_us * span.covered_us // (span.t1_us - span.t0_us))
    if static_uj is None:
        dynamic = None
        flights.undivided_uj[rows] += got
    else:
        dynamic = max(energy_uj - static_uj, 0) / energy_uj if energy_uj else 0.0
        flights.dynamic_uj[rows] += dynamic_part(got, dynamic)
    ends = flights.end[rows]
    edges = (flights.start[rows] >= span.t0_us).astype(np.int64)
    edges += (ends > 0) & (ends < span.t1_us)
    blurred_uj = energy_uj * span.half_width_us // (span.t1_us - span.t0_us)
    flights.edge_uj[rows] += np.floor(blurred_uj * edges * share).astype(np.int64)
    return parts, dynamic


def _turn_page(flights: Flights, group: int, t0_us: int, t1_us: int) -> None:
    """Count the interval's tokens as done and free its column."""
    rows = np.flatnonzero(flights.group[: flights.rows] == group)
    for k in range(number(t0_us), min(number(t1_us), number(t0_us) + RING)):
        flights.done[rows] += flights.tokens[k % RING, rows]
        flights.tokens[k % RING, rows] = 0.0
