"""What becomes known of images and videos late: when a job ended, and so when it and those behind it ran.

A client that goes away, or deletes a job, ends nothing that runs: diffusion servers work on to the end, and
drop only what still waits (vLLM-Omni 0.30 as observed). Such a job is `left`: it stays open until a job
behind it ends, or the time is over that it should take and its server does not count it any more. Its energy
is its own all that time.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from accounting.events import EngineCounters
from accounting.ledger.flights import Flights
from accounting.ledger.group import Group
from accounting.ledger.jobs import JobWork, media_of, parts, size_j
from accounting.ledger.jobs_pace import pace
from accounting.ledger.jobs_queue import Window, expected_us, note_end, seats, windows
from accounting.ledger.jobs_state import LATEST, JobsState, Look, Served

Ints = NDArray[np.int64]

LOOK_US = 15_000_000
"""Counts older than this are those of a server that does not tell any more."""

MOST_TIMES = 4
"""A job that was left is waited for no longer than so many times its usual time, whatever the counts say."""


def look(state: JobsState, event: EngineCounters) -> None:
    """Take the server's own counts."""
    if event.running is None or event.waiting is None:
        return
    if not state.looks or event.t_us > state.looks[-1].t_us:
        state.looks.append(Look(event.t_us, event.running, event.waiting))
        del state.looks[:-LATEST]


def rows_of(flights: Flights, group: Group, column: int) -> Ints:
    """The backend's jobs that are open, or have ended and are still held."""
    n = flights.rows
    return flights.in_order(
        np.flatnonzero((flights.group[:n] == group.number) & (flights.column[:n] == column))
    )


def end(flights: Flights, row: int, group: Group, state: JobsState, end_us: int) -> None:
    """This job ended, one way or another: `told.status` says how. Those that were left before it have too."""
    told = flights.teller(row)
    rows = rows_of(flights, group, int(flights.column[row]))
    if seats(state) == 1 and told.status == "ok":
        for other, other_us in _overtaken(flights, state, rows, row, end_us):
            _close(flights, other, state, other_us, rows)
    _close(flights, row, state, end_us, rows)
    _lay(flights, group, state, row)


def runs(flights: Flights, row: int, group: Group, state: JobsState) -> bool:
    """Whether its server has begun with this job, which has not ended."""
    return _window(flights, state, rows_of(flights, group, int(flights.column[row])), row) is not None


def end_of_left(flights: Flights, row: int, group: Group, state: JobsState, now_us: int) -> int | None:
    """When a job ended whose client has gone; None while it may still run."""
    rows = rows_of(flights, group, int(flights.column[row]))
    found = _window(flights, state, rows, row)
    if found is None:
        return None
    begin_us, left_us = found.begin_us, flights.teller(row).left_us
    usual_us, _ = expected_us(state, size_j(media_of(flights, row), state.usual))
    due_us = max(begin_us + usual_us, left_us)
    if now_us < due_us:
        return None
    # More at the server than somebody waits for: it is still there. That there are no more proves nothing by
    # itself, as servers may not count what nobody waits for.
    looks = [look for look in state.looks if look.t_us >= left_us]
    still_us = [
        look.t_us for look in looks if look.running + look.waiting > _waited_for(flights, rows, look.t_us)
    ]
    if not still_us:
        return due_us
    told_us = looks[-1].t_us
    patient = now_us < min(told_us + LOOK_US, begin_us + MOST_TIMES * usual_us)
    return None if told_us == still_us[-1] and patient else max(still_us[-1], due_us)


def _window(flights: Flights, state: JobsState, rows: Ints, row: int) -> Window | None:
    at: int = rows.tolist().index(row)
    return windows(flights, state, rows)[at]


def _waited_for(flights: Flights, rows: Ints, t_us: int) -> int:
    ends = flights.end[rows]
    there = rows[(flights.start[rows] < t_us) & ((ends == 0) | (ends > t_us))]
    return sum(not flights.teller(row).left_us for row in there.tolist())


def _overtaken(
    flights: Flights, state: JobsState, rows: Ints, row: int, end_us: int
) -> Iterator[tuple[int, int]]:
    """Jobs left that came before this one to a server that works in turn, and when they must have ended: the
    time up to this one's end is divided by how long each should take."""
    start_us = int(flights.start[row])
    left = [r for r in rows.tolist() if flights.teller(r).left_us and not flights.end[r]]
    left = sorted((int(flights.start[r]), int(flights.handle[r]), r) for r in left)
    before = [r for begin, _, r in left if begin < start_us]
    if not before:
        return
    at_us = max((job.end_us for job in state.served if job.end_us < end_us), default=0)
    usual = [expected_us(state, size_j(media_of(flights, r), state.usual))[0] for r in [*before, row]]
    for k, other in enumerate(before):
        at_us = max(at_us, int(flights.start[other]))
        if at_us + sum(usual[k:-1]) > max(start_us, end_us - usual[-1]):
            ran_us = (end_us - at_us) * usual[k] // max(sum(usual[k:]), 1)
        else:
            ran_us = usual[k]
        at_us = min(at_us + ran_us, end_us)
        yield other, at_us


def _close(flights: Flights, row: int, state: JobsState, end_us: int, rows: Ints) -> None:
    told, start_us = flights.teller(row), int(flights.start[row])
    was = _window(flights, state, rows, row)
    told.never_ran = was is None and told.status != "ok"
    flights.end[row] = max(end_us, start_us, 1)
    if told.never_ran or not flights.works[row]:
        return
    media = media_of(flights, row)
    size = size_j(media, state.usual)
    if told.status == "ok" and None not in (media.width, media.steps):
        state.usual = media
    (now,) = windows(flights, state, np.array([row], np.int64))
    begin_us = start_us if now is None else now.begin_us
    ended = int(flights.end[row])
    others = rows[(rows != row) & (flights.start[rows] < ended)]
    ends = flights.end[others]
    lone = not bool(((ends == 0) | (ends > start_us)).any())
    before_us = max((job.end_us for job in state.served if job.end_us <= ended), default=0)
    ran_us = ended - begin_us if told.status == "ok" else 0
    note_end(state, Served(start_us, ended, size, ran_us, lone), ended - max(before_us, start_us))


def _lay(flights: Flights, group: Group, state: JobsState, row: int) -> None:
    """Write what is known now of who ran when into the kept intervals."""
    column = int(flights.column[row])
    rows = rows_of(flights, group, column)
    found: dict[int, Window | None] = dict(
        zip(flights.handle[rows].tolist(), windows(flights, state, rows), strict=True)
    )
    ends = [window.end_us or 0 for window in found.values() if window is not None]
    going = pace(group, flights, column, int(flights.start[rows].min()), max(ends, default=0))
    for kept in group.history.since(int(flights.start[row])):
        work, handles = kept.works[column], kept.handles[column].tolist()
        if not isinstance(work, JobWork) or not handles:
            continue
        at = [k for k, handle in enumerate(handles) if handle in found]
        medias = [media_of(flights, flights.row[handles[k]]) for k in at]
        shares, together, known = parts(
            state, medias, [found[handles[k]] for k in at], kept.t0_us, kept.t1_us, going
        )
        if not np.array_equal(work.part[at], shares):
            work.part[at], kept.stale = shares, True
        work.known[at] = known
        if len(at) == len(handles):
            work.together = together
