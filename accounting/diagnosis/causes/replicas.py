"""Too many replicas: the work of several backends of one model would fit on fewer.

The work of all of them is served by fewer (`project.py`) at the prices of the one that learnt most, as it
came. So few are enough that none has more work than time, tokens come at most SLOWER times as
slowly, and no batch is above what a replica has shown room for.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from accounting.diagnosis.findings import Finding, RuledOut, Verdict, rounded, uncertainty_uj
from accounting.diagnosis.project import Load, Prices, Served, as_it_came, served, total
from accounting.diagnosis.window import Backend, Window

SLOWER = 1.5
ROOM = 0.8
"""Part of the KV cache that a batch may take."""


def look(window: Window) -> list[Verdict]:
    models: dict[tuple[frozenset[str | None], int], list[Backend]] = {}
    for backend in window.backends:
        served_models = frozenset(s.model for s in window.spent_by(backend.name))
        if backend.worked and served_models:
            models.setdefault((served_models, backend.gpus), []).append(backend)
    return [_of(group) for group in models.values()]


def _of(group: list[Backend]) -> Verdict:
    names = ", ".join(backend.name for backend in group)
    if len(group) < 2:
        return RuledOut(cause="replicas", backend=names, why="there is only one of this model")
    fewer = fewest(group)
    now_j = sum(backend.drawn_uj for backend in group) / 1e6
    busy = sum(b.busy_s for b in group) / max(sum(b.settled_s for b in group), 1e-9)
    evidence = {
        "replicas": len(group),
        "busy_part_of_time": rounded(busy),
        "batch_now": rounded(_batch(group)),
    }
    if fewer is None:
        return RuledOut(cause="replicas", backend=names, why="fewer would be too slow", evidence=evidence)
    saving_uj = round((now_j - fewer.drawn_j) * 1e6)
    return Finding(
        cause="replicas",
        kind="waste",
        backend=names,
        what=f"{len(group)} replicas did what {fewer.replicas} could have done",
        change=f"run {fewer.replicas} of them",
        joules_uj=round(now_j * 1e6),
        saving_uj=saving_uj,
        uncertainty_uj=uncertainty_uj(saving_uj, group[0].newest.price_error, _batch(group), fewer.way.batch),
        evidence=evidence
        | {
            "replicas_enough": fewer.replicas,
            "batch_then": rounded(fewer.way.batch),
            "slower_tokens": rounded(fewer.slower),
        },
    )


@dataclass(frozen=True, slots=True)
class Fewer:
    replicas: int
    way: Served
    drawn_j: float
    slower: float
    """Times as long between two tokens."""


def fewest(group: list[Backend]) -> Fewer | None:
    """The fewest replicas that will do; None where that is all of them."""
    best = max(group, key=lambda backend: sum(one.learnt_us for one in backend.worked))
    prices, times = Prices(best.newest.prices), Prices(best.newest.times)
    loads, seconds = _together(group), max(backend.settled_s for backend in group)
    step_s = sum(b.busy_s for b in group) / max(sum(_steps(b) for b in group), 1e-9)
    limit = min((room(backend) for backend in group), default=inf)
    for count in range(1, len(group)):
        each = [load.scaled(1 / count) for load in loads]
        way = served(each, prices, times, limit)
        slower = way.busy_s / max(way.steps, 1e-9) / step_s
        whole = total(each)
        fits = way.busy_s <= whole.seconds and slower <= SLOWER and way.batch < limit
        if fits:
            drawn_j = count * way.drawn_j(seconds, best.static_w)
            return Fewer(count, way, drawn_j, slower)
    return None


def room(backend: Backend) -> float:
    """The largest batch that it has room for, as far as it has shown: its KV cache at ROOM, its seats."""
    shown = [(one.running, one.kv_used) for one in backend.facts if one.running and one.kv_used]
    by_cache = min((ROOM * running / used for running, used in shown), default=inf)
    seats = [one.seats for one in backend.facts if one.seats]
    return min([by_cache, *map(float, seats)])


def _together(group: list[Backend]) -> list[Load]:
    by_minute: dict[int, list[Load]] = {}
    for backend in group:
        came = [one for one in backend.facts if one.arrived]
        for one, load in zip(came, as_it_came(backend.facts), strict=False):
            by_minute.setdefault(one.t0_us, []).append(load)
    joined = []
    for loads in by_minute.values():
        whole = total(loads)
        seconds = max(load.seconds for load in loads)
        joined.append(
            Load(
                seconds,
                whole.tokens,
                whole.prompt,
                whole.prompt_reads,
                whole.decoded,
                whole.decoded_reads,
            )
        )
    return joined


def _steps(backend: Backend) -> float:
    return sum(one.work[0] for one in backend.worked)


def _batch(group: list[Backend]) -> float:
    tokens = sum(one.tokens for backend in group for one in backend.worked)
    return tokens / max(sum(_steps(backend) for backend in group), 1e-9)
