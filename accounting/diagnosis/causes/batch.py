"""What held the batch: the engine's seats (max_num_seqs), its KV memory, or that no more requests came.

Told minute by minute. Some waited at half of the looks or more: something of the engine's held the batch. Its
KV cache, where it was full (KV_FULL) or sequences were preempted; else its seats: as many as ran while others
waited. Where nobody waited it was demand.

Then the work is served anew (`project.py`), as it came: where more requests came than ended, at the batch
that all of them would have made. With all the seats that the KV cache has room for, with twice the KV cache,
or, for demand, at twice the batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from accounting.diagnosis.causes.replicas import ROOM
from accounting.diagnosis.findings import Figure, Finding, Kind, RuledOut, Verdict, rounded, uncertainty_uj
from accounting.diagnosis.project import Prices, Served, as_it_came, at_batch, load_of, served, total
from accounting.diagnosis.window import LG, STEPS, Backend, Window
from accounting.records import BackendFacts

WAITED = 0.5
KV_FULL = 0.95
LEAST = 0.1
"""Part of the busy time that a cause has to hold."""

MORE_KV = 2.0
MORE_DEMAND = 2.0


def look(window: Window) -> list[Verdict]:
    verdicts: list[Verdict] = []
    for backend in window.backends:
        if not backend.worked:
            continue
        if not any(one.looks for one in backend.worked):
            why = "the engine shows no counters of its own (/metrics)"
            verdicts += [
                RuledOut(cause=cause, backend=backend.name, why=why, unknown=True)
                for cause in ("max-num-seqs", "kv-memory", "demand")
            ]
            continue
        verdicts += [_seats(backend, window), _memory(backend, window), _demand(backend)]
    return verdicts


def by_memory(one: BackendFacts) -> bool:
    return _waited(one) and ((one.kv_most or 0.0) >= KV_FULL or bool(one.preemptions))


def by_seats(one: BackendFacts) -> bool:
    return _waited(one) and not by_memory(one)


def by_demand(one: BackendFacts) -> bool:
    return one.looks > 0 and not _waited(one)


def _waited(one: BackendFacts) -> bool:
    return one.looks > 0 and one.looks_waiting >= WAITED * one.looks


def _seats(backend: Backend, window: Window) -> Verdict:
    held = [one for one in backend.worked if by_seats(one)]
    part = _part(backend, held)
    seats = max((one.seats or 0 for one in held), default=0)
    evidence = {"part_of_busy_time": rounded(part), "seats": seats or None, **_queue(held)}
    if part < LEAST or not seats:
        why = "nobody waited while the KV cache had room"
        return RuledOut(cause="max-num-seqs", backend=backend.name, why=why, evidence=evidence)
    room = max(_room(held), seats)
    then = _unhindered(backend, window, room)
    return _finding(
        backend,
        then,
        cause="max-num-seqs",
        kind="limit",
        what=f"{part:.0%} of the busy time requests waited for one of {seats} seats, with KV memory free",
        change=f"raise max_num_seqs from {seats}; the KV cache has room for some {room:.0f}",
        joules_uj=sum(one.learnt_uj for one in held),
        evidence={**evidence, "room_for": round(room), "kv_used": rounded(_mean(held, "kv_used"))},
    )


def _memory(backend: Backend, window: Window) -> Verdict:
    held = [one for one in backend.worked if by_memory(one)]
    part = _part(backend, held)
    evidence = {
        "part_of_busy_time": rounded(part),
        "kv_used": rounded(_mean(backend.worked, "kv_used")),
        "kv_most": rounded(max((one.kv_most or 0.0 for one in backend.worked), default=0.0)),
        "preemptions": sum(one.preemptions or 0 for one in backend.worked),
        **_queue(held),
    }
    if part < LEAST:
        why = "the KV cache was not full while requests waited"
        return RuledOut(cause="kv-memory", backend=backend.name, why=why, evidence=evidence)
    running = _mean(held, "running") or 1.0
    then = _unhindered(backend, window, MORE_KV * running)
    return _finding(
        backend,
        then,
        cause="kv-memory",
        kind="limit",
        what=f"{part:.0%} of the busy time the KV cache was full and requests waited",
        change="give it twice the KV cache: an FP8 cache, more GPU memory for it, another GPU",
        joules_uj=sum(one.learnt_uj for one in held),
        evidence=evidence,
    )


def _demand(backend: Backend) -> Verdict:
    held = [one for one in backend.worked if by_demand(one)]
    part = _part(backend, held)
    prices, times = _rates(backend)
    load = total([load_of(one) for one in held])
    steps = sum(one.work[STEPS] for one in held)
    now_batch = load.tokens / steps if steps else 0.0
    shared_j = sum(prices.of[STEPS] * one.work[STEPS] + prices.of[LG] * one.work[LG] for one in held)
    energy_j = sum(one.learnt_uj for one in held) / 1e6
    evidence = {
        "part_of_busy_time": rounded(part),
        "batch": rounded(now_batch),
        "shared_part_of_energy": rounded(shared_j / energy_j if energy_j else None),
    }
    if part < LEAST or not steps:
        why = "there were always requests waiting"
        return RuledOut(cause="demand", backend=backend.name, why=why, evidence=evidence)
    now, then = (
        at_batch(load, now_batch, prices, times),
        at_batch(load, MORE_DEMAND * now_batch, prices, times),
    )
    saving_uj = _saving_uj(backend, now, then)
    return Finding(
        cause="demand",
        kind="work",
        backend=backend.name,
        what=f"{part:.0%} of the busy time the batch, {now_batch:.1f} on average, was all that was asked for",
        change="bring twice as many requests together: fewer replicas, or hold back what can wait",
        joules_uj=round(shared_j * 1e6),
        saving_uj=saving_uj,
        uncertainty_uj=uncertainty_uj(
            saving_uj, backend.newest.price_error, now_batch, MORE_DEMAND * now_batch
        ),
        evidence=evidence,
    )


def _unhindered(backend: Backend, window: Window, limit: float) -> Served:
    """All of its work at the batch that its requests make, at most `limit`."""
    ended = sum(s.requests for s in window.spent_by(backend.name))
    came = sum(one.arrived for one in backend.facts)
    more = max(came / ended, 1.0) if ended else 1.0
    loads = [load.scaled(more) for load in as_it_came(backend.worked)]
    way = served(loads, *_rates(backend), limit)
    return Served(way.energy_j / more, way.busy_s / more, way.steps / more, way.tokens / more)


def _finding(
    backend: Backend,
    then: Served,
    *,
    cause: str,
    kind: Kind,
    what: str,
    change: str,
    joules_uj: int,
    evidence: Mapping[str, Figure],
) -> Finding:
    """All of the backend's work as it was served, against `then`."""
    whole = total([load_of(one) for one in backend.worked])
    steps = sum(one.work[STEPS] for one in backend.worked)
    prices, times = _rates(backend)
    batch = whole.tokens / steps
    now = at_batch(whole, batch, prices, times)
    saving_uj = _saving_uj(backend, now, then)
    return Finding(
        cause=cause,
        kind=kind,
        backend=backend.name,
        what=what,
        change=change,
        joules_uj=joules_uj,
        saving_uj=saving_uj,
        uncertainty_uj=uncertainty_uj(saving_uj, backend.newest.price_error, batch, then.batch),
        evidence={**evidence, "batch_now": rounded(batch), "batch_then": rounded(then.batch)},
    )


def _saving_uj(backend: Backend, now: Served, then: Served) -> int:
    wall_s = max(now.busy_s, then.busy_s)
    saved_j = now.drawn_j(wall_s, backend.static_w) - then.drawn_j(wall_s, backend.static_w)
    return round(saved_j * 1e6)


def _rates(backend: Backend) -> tuple[Prices, Prices]:
    return Prices(backend.newest.prices), Prices(backend.newest.times)


def _part(backend: Backend, held: Sequence[BackendFacts]) -> float:
    return sum(one.busy_us for one in held) / 1e6 / backend.busy_s if backend.busy_s else 0.0


def _room(held: Sequence[BackendFacts]) -> float:
    shown = [(one.running, one.kv_used) for one in held if one.running and one.kv_used]
    return min((ROOM * running / used for running, used in shown), default=0.0)


def _mean(facts: Sequence[BackendFacts], name: str) -> float | None:
    known = [value for one in facts if (value := getattr(one, name)) is not None]
    return sum(known) / len(known) if known else None


def _queue(held: Sequence[BackendFacts]) -> dict[str, float | None]:
    return {"running": rounded(_mean(held, "running")), "waiting": rounded(_mean(held, "waiting"))}
