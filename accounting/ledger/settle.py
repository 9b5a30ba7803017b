"""One GPU, one interval: its energy shared among idle, unobserved, unmeasured and the requests at work."""

from __future__ import annotations

from collections.abc import Sequence

from accounting.ledger import work
from accounting.ledger.apportion import apportion
from accounting.ledger.curve import Span
from accounting.ledger.rule import Activity, Rule, Weights
from accounting.ledger.state import BackendState, GpuState, OpenRequest, Share
from accounting.records import BookEntry

IDLE_SAMPLES = 240
"""Empty intervals that the idle power is learnt from: two minutes of them."""

IDLE_SAMPLES_MIN = 8
UNOBSERVED_FACTOR = 2
"""An empty interval above this multiple of idle power saw work that did not come through the proxy."""

PRICE_MEMORY = 0.3
"""Weight of the newest interval in the recent price of work."""


def settle_interval(
    gpu: GpuState,
    t1_us: int,
    requests: Sequence[tuple[int, OpenRequest]],
    backends: dict[str, BackendState],
    rule: Rule,
) -> BookEntry:
    """Book [gpu.settled_us, t1_us) and charge the requests. The entry balances, whatever was heard."""
    t0_us = gpu.settled_us
    span = gpu.curve.span(t0_us, t1_us)
    entry = BookEntry(
        gpu=gpu.gpu,
        t0_us=t0_us,
        t1_us=t1_us,
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
    present = [(r, a) for h, r in requests if (a := _activity(h, r, backends, t0_us, t1_us)) is not None]
    for request, activity in present:
        _note_coverage(request, gpu.gpu, activity.in_flight_us, span)
    energy = (span.measured_uj or 0) - span.unmeasured_uj
    at_work = [(r, a) for r, a in present if r.status not in ("client_error", "rejected")]
    weights = rule.weigh([a for _, a in at_work])
    entry.requests = len(at_work)
    if not any(w.prefill or w.decode for w in weights):
        _book_empty(gpu, entry, energy, span)
        return entry
    busy_us = _busy_us([r for r, _ in at_work], t0_us, t1_us)
    entry.idle_uj = _idle_part(gpu, energy, t1_us - t0_us - busy_us, span)
    entry.requests_uj = energy - entry.idle_uj
    _charge(gpu, entry.requests_uj, [r for r, _ in at_work], weights, span)
    if any(a.prefill or a.decode for _, a in at_work) and span.covered_us:
        price = entry.requests_uj / sum(w.prefill + w.decode for w in weights)
        old = gpu.uj_per_work
        gpu.uj_per_work = price if old is None else old + PRICE_MEMORY * (price - old)
    return entry


def _activity(
    handle: int, request: OpenRequest, backends: dict[str, BackendState], t0_us: int, t1_us: int
) -> Activity | None:
    """What a request did in the interval; None where it was not in flight and has no work there."""
    begin = max(t0_us, request.started.t_us)
    end = t1_us if request.finished_us is None else min(t1_us, request.finished_us)
    k = work.number(t0_us)
    prefill, decode = request.prefill_bins.get(k, 0), request.decode_bins.get(k, 0)
    if end <= begin and not prefill and not decode:
        return None
    unseen = not request.started.streamed and not request.seen_tokens and request.finished_us is None
    if unseen and (backend := backends.get(request.started.backend or "")) is not None:
        decode = work.assumed_decode(request, backend, t0_us, t1_us)
    decoding = request.first_us is not None and request.first_us < t1_us
    return Activity(handle, prefill, decode, max(end - begin, 0), decoding)


def _note_coverage(request: OpenRequest, gpu: str, in_flight_us: int, span: Span) -> None:
    covered = in_flight_us * span.covered_us // (span.t1_us - span.t0_us)
    if span.covered_us:
        covered = max(covered, 1)  # it may be charged, however short its time or the part that was measured
    request.covered_us[gpu] = request.covered_us.get(gpu, 0) + covered
    request.uncovered_us[gpu] = request.uncovered_us.get(gpu, 0) + max(in_flight_us - covered, 0)


def _book_empty(gpu: GpuState, entry: BookEntry, energy_uj: int, span: Span) -> None:
    """Nobody was at work: idle, unless the GPU drew far more than it does at idle."""
    expected = _idle_energy(gpu, span.covered_us)
    if expected is not None and energy_uj > UNOBSERVED_FACTOR * expected:
        entry.unobserved_uj = energy_uj - expected
    entry.idle_uj = energy_uj - entry.unobserved_uj
    if span.covered_us == span.t1_us - span.t0_us:
        gpu.idle_samples_uw.append(energy_uj * 1_000_000 // span.covered_us)
        del gpu.idle_samples_uw[:-IDLE_SAMPLES]


def _idle_energy(gpu: GpuState, time_us: int) -> int | None:
    """Energy of `time_us` at idle power, the 10th percentile of empty intervals. None until it is learnt."""
    samples = gpu.idle_samples_uw
    if len(samples) < IDLE_SAMPLES_MIN:
        return None
    return sorted(samples)[len(samples) // 10] * time_us // 1_000_000


def _idle_part(gpu: GpuState, energy_uj: int, idle_us: int, span: Span) -> int:
    """Energy of the part of the interval in which no request was in flight."""
    length = span.t1_us - span.t0_us
    learnt = _idle_energy(gpu, idle_us * span.covered_us // length)
    return min(energy_uj, energy_uj * idle_us // length if learnt is None else learnt)


def _busy_us(requests: Sequence[OpenRequest], t0_us: int, t1_us: int) -> int:
    """Time within [t0_us, t1_us) with at least one request in flight."""
    spans = sorted(
        (max(t0_us, r.started.t_us), t1_us if r.finished_us is None else min(t1_us, r.finished_us))
        for r in requests
    )
    busy, reached = 0, t0_us
    for begin, end in spans:
        if end > reached:
            busy += end - max(begin, reached)
            reached = end
    return busy


def _charge(
    gpu: GpuState, energy_uj: int, requests: Sequence[OpenRequest], weights: Sequence[Weights], span: Span
) -> None:
    flat = [part for pair in weights for part in pair]
    whole = sum(flat)
    parts = apportion(energy_uj, flat)
    power_uw = energy_uj * 1_000_000 // (span.t1_us - span.t0_us)
    for i, request in enumerate(requests):
        share = request.shares.setdefault(gpu.gpu, Share())
        prefill, decode = parts[2 * i], parts[2 * i + 1]
        share.prefill_uj += prefill
        share.decode_uj += decode
        weight = flat[2 * i] + flat[2 * i + 1]
        request.shared_uj += (prefill + decode) * (whole - weight) // whole
        starts_here = request.started.t_us >= span.t0_us
        ends_here = request.finished_us is not None and request.finished_us < span.t1_us
        blurred_us = span.half_width_us * (starts_here + ends_here)
        request.edge_uj += power_uw * blurred_us // 1_000_000 * weight // whole
