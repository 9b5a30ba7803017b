"""What becomes known of a request after its time was settled: laid where it belongs, the energy split anew.

Three things are told late: how much of a prompt was computed, when it was (the prefill of a first token that
was long in coming), and all of an answer that is not streamed. They are written into the kept intervals
(`history.py`). `split_anew` then divides the energy of each interval that changed once more, among the same
requests: its sum, and so every book, stays as it is.

A request whose record is out already takes part only where the interval changes by more than MATERIAL; what
it gains or loses is told in a `Correction`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from accounting.ledger.apportion import apportion
from accounting.ledger.features import Work, prompt_joules
from accounting.ledger.flights import Flights
from accounting.ledger.group import Group
from accounting.ledger.history import Kept, KeptGpu
from accounting.ledger.intervals import INTERVAL_US

MATERIAL = 0.01
"""Requests that have their record are left alone where less than this part of the energy would move."""

OWN = 0.01
"""News that moves less than this part of what the request itself was charged moves nothing."""

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def lay_prompt(flights: Flights, row: int, group: Group, was_us: tuple[int, int]) -> None:
    """Write the request's prompt, as far as it lies in settled time, into the kept intervals.

    `was_us` is the stretch of time that it was thought to lie in before.
    """
    pre0, pre1 = int(flights.pre0[row]), int(flights.pre1[row])
    kept_then = group.history.between(min(was_us[0], pre0), max(was_us[1], pre1))
    if not kept_then:
        return
    column, handle = int(flights.column[row]), int(flights.handle[row])
    uncached, prompt = float(flights.uncached[row]), float(flights.prompt[row])
    per_token = prompt - uncached / 2  # context that a prompt token attends to, on average
    prices = group.prices(column)
    moved_j, touched = 0.0, []
    for kept in kept_then:
        at = kept.place(column, handle)
        if at is None:
            continue
        work = kept.works[column]
        assert isinstance(work, Work)
        tokens = uncached * part_within(pre0, pre1, kept.t0_us, kept.t1_us)
        was = float(prices[2] * work.prompt[at] + prices[3] * work.prompt_reads[at])
        work.prompt[at], work.prompt_reads[at] = tokens, tokens * per_token
        now = float(prices[2] * tokens + prices[3] * tokens * per_token)
        if now != was:
            moved_j += abs(now - was)
            touched.append(kept)
    if moved_j > OWN * max(_charged_j(flights, row), prompt_joules(prices, uncached, prompt)):
        for kept in touched:
            kept.stale = True


def lay_answer(flights: Flights, row: int, group: Group, tokens: float) -> None:
    """Write an answer that was not streamed into the kept intervals, its tokens laid from first to end.

    Every step of the engine gives each sequence a token, so more came where there were more steps; it decodes
    slowly while others' prompts are computed. Laid evenly, decode would seem to explain what prefill drew.
    """
    column, handle = int(flights.column[row]), int(flights.handle[row])
    first, end = int(flights.first[row]), int(flights.end[row])
    sequences, prompt = float(flights.seqs[row]), float(flights.prompt[row])
    found = []
    for kept in group.history.since(int(flights.start[row])):
        at, work = kept.place(column, handle), kept.works[column]
        if at is not None and isinstance(work, Work):
            found.append((kept, work, at, part_within(first, end, kept.t0_us, kept.t1_us)))
    told = [work.steps for _, work, _, _ in found if work.steps_seen]
    usual = sum(told) / len(told) if told else 1.0
    weights = [part * (work.steps if work.steps_seen else usual) for _, work, _, part in found]
    whole, scale = sum(part for _, _, _, part in found), sum(weights)
    before = tokens * part_within(first, end, 0, found[-1][0].t0_us) if found else 0.0
    for (kept, work, at, _), weight in zip(reversed(found), reversed(weights), strict=True):
        here = tokens * whole * weight / scale if scale > 0 else 0.0
        firsts = min(sequences, here) if kept.t0_us <= first < kept.t1_us else 0.0
        work.tokens[at], work.firsts[at], work.decoded[at] = here, firsts, here - firsts
        work.reads[at] = (here - firsts) * (prompt + (before + here / 2) / sequences)
        work.recount()
        kept.stale = True
        before += here


def first_by_steps(flights: Flights, row: int, group: Group) -> int | None:
    """When the first token of an unseen answer came, by counting the engine's steps back from its end.

    UTC microseconds. None where no stream told the steps of the time in question.
    """
    told = flights.teller(row)
    tokens = float((told.usage.completion_tokens if told.usage is not None else None) or 0)
    left = tokens / float(flights.seqs[row]) - 1
    end, start, column = int(flights.end[row]), int(flights.start[row]), int(flights.column[row])
    at, rate = end, 0.0
    for kept in group.history.since(start):
        work = kept.works[column]
        if not isinstance(work, Work) or not work.steps_seen or work.steps <= 0:
            return None
        rate = work.steps / INTERVAL_US
        open_steps = max(at - kept.t1_us, 0) * rate  # not settled yet: as fast as just before
        here = max(min(at, kept.t1_us) - kept.t0_us, 0) * rate
        if left <= open_steps + here:
            break
        left -= open_steps + here
        at = kept.t0_us
    return max(start, round(at - left / rate)) if rate else None


def part_within(begin_us: int, end_us: int, t0_us: int, t1_us: int) -> float:
    """Which part of [begin, end] lies in [t0_us, t1_us). A window without length is a point."""
    if end_us <= begin_us:
        return 1.0 if t0_us <= end_us < t1_us else 0.0
    return max(min(end_us, t1_us) - max(begin_us, t0_us), 0) / (end_us - begin_us)


def _charged_j(flights: Flights, row: int) -> float:
    return float(flights.prefill_uj[row].sum() + flights.decode_uj[row].sum()) / 1e6


def split_anew(flights: Flights, group: Group) -> None:
    """Bring every kept interval that something became known of up to date."""
    for kept in group.history.kept:
        if kept.stale:
            kept.stale = False
            _split(flights, group, kept)


def _split(flights: Flights, group: Group, kept: Kept) -> None:
    find = flights.row.get
    rows = [np.fromiter((find(h, -1) for h in hs.tolist()), np.int64, len(hs)) for hs in kept.handles]
    pairs = [work.joules(group.prices(column)) for column, work in enumerate(kept.works)]
    # A request whose row is gone, or that moved to another backend, keeps what it has here; one that the
    # engine refused did no work.
    here = [
        (found >= 0) & (flights.group[found] == group.number) & (flights.column[found] == column)
        for column, found in enumerate(rows)
    ]
    weights = [
        np.stack(pair, axis=1) * flights.works[found][:, None]
        for pair, found in zip(pairs, rows, strict=True)
    ]
    for gpu in kept.gpus:
        columns = [column for column, place in enumerate(gpu.places) if place >= 0]
        if _moved(gpu, columns, here, weights) < MATERIAL:
            chosen = [mask & ~flights.concluded[found] for mask, found in zip(here, rows, strict=True)]
        else:
            chosen = here
        _divide(flights, gpu, columns, rows, chosen, weights)


def _moved(gpu: KeptGpu, columns: list[int], here: list[NDArray[np.bool_]], weights: list[Floats]) -> float:
    """Which part of the GPU's energy would change hands if all took part."""
    old = np.concatenate([gpu.parts[c][here[c]].sum(axis=1) for c in columns])
    new = np.concatenate([weights[c][here[c]].sum(axis=1) for c in columns])
    if not new.sum() > 0 or not old.sum() > 0:
        return 0.0
    return float(np.abs(old / old.sum() - new / new.sum()).sum()) / 2


def _divide(
    flights: Flights,
    gpu: KeptGpu,
    columns: list[int],
    rows: list[Ints],
    chosen: list[NDArray[np.bool_]],
    weights: list[Floats],
) -> None:
    """Divide what the chosen requests have of this interval anew among them."""
    shares = np.concatenate([weights[c][chosen[c]] for c in columns])
    old = np.concatenate([gpu.parts[c][chosen[c]] for c in columns])
    if not shares.sum() > 0:
        return
    new = apportion(int(old.sum()), shares.ravel()).reshape(-1, 2)
    at = 0
    for column in columns:
        mask, place = chosen[column], gpu.places[column]
        mine, count = rows[column][mask], int(mask.sum())
        was, now = old[at : at + count], new[at : at + count]
        at += count
        gpu.parts[column][mask] = now
        flights.prefill_uj[mine, place] += now[:, 0] - was[:, 0]
        flights.decode_uj[mine, place] += now[:, 1] - was[:, 1]
        got, had = now.sum(axis=1), was.sum(axis=1)
        flights.shared_uj[mine] += shared_part(got, gpu.energy_uj) - shared_part(had, gpu.energy_uj)
        if gpu.dynamic is None:
            flights.undivided_uj[mine] += got - had
        else:
            flights.dynamic_uj[mine] += dynamic_part(got, gpu.dynamic) - dynamic_part(had, gpu.dynamic)


def dynamic_part(got_uj: Ints, dynamic: float) -> Ints:
    """Which part of what a request got was not idle power, in whole microjoules."""
    part: Ints = np.floor(got_uj * dynamic).astype(np.int64)
    return part


def shared_part(got_uj: Ints, energy_uj: int) -> Ints:
    """Which part of it was split with others: what can be wrong about it."""
    part: Ints = np.floor(got_uj * (1.0 - got_uj / max(energy_uj, 1))).astype(np.int64)
    return part
