"""Which jobs ran when: a job in flight may wait for others in its server, for minutes.

A server with S seats works on the S jobs that came first. With one seat (most diffusion servers) a job runs
from the end of the one before it to its own end: exact by completion order alone. How many seats there are is
configured, or seen in the server's own count of running jobs, or in ends: two jobs that end much closer
together than the second takes alone cannot have been worked off in turn.

How long a job takes, needed while it runs and nothing has ended, is what the last one just like it took,
or by its size what others took.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from accounting.ledger.flights import Flights
from accounting.ledger.jobs_state import LATEST, JobsState, Served

Ints = NDArray[np.int64]

UNKNOWN_POWER_W = 600.0
"""Before any job has ended, its size in joules is taken to be drawn at this power."""

MANY = 1_000_000
"""Seats of a server that works on all that come at once."""

TOO_SOON = 0.5
"""A job that ends within this part of its usual time after the one before it ran beside it."""

SURE = 0.5
TOGETHER_MEMORY = 0.3


class Window(NamedTuple):
    """When a job ran: `end_us` None while it does."""

    begin_us: int
    end_us: int | None


def seats(state: JobsState) -> int:
    """How many jobs the server works on at a time."""
    if state.at_once is not None:
        return state.at_once
    # A server that has some wait while others run tells the two apart; else all may be called running.
    if seen := max((look.running for look in state.looks if look.waiting > 0), default=0):
        return seen
    return MANY if state.together > SURE else 1


def expected_us(state: JobsState, size_j: float) -> tuple[int, bool]:
    """How long a job of this size runs, in microseconds; whether that is known of one just like it."""
    ran = [job for job in state.served if job.ran_us > 0]
    for job in reversed(ran):
        if job.size_j == size_j:
            return job.ran_us, True
    paces = sorted(job.ran_us / job.size_j for job in ran)
    us_per_j = paces[len(paces) // 2] if paces else 1e6 / UNKNOWN_POWER_W
    return round(size_j * us_per_j), False


def windows(flights: Flights, state: JobsState, rows: Ints) -> list[Window | None]:
    """When each of these jobs ran; None: not yet, or never."""
    waiting = [row for row in rows.tolist() if not never_ran(flights, row)]
    found = _in_turn(flights, state, waiting) if seats(state) == 1 else _side_by_side(flights, state, waiting)
    return [found.get(row) for row in rows.tolist()]


def never_ran(flights: Flights, row: int) -> bool:
    """Whether the server did nothing for it: refused, or taken back before its turn."""
    return not flights.works[row] or flights.teller(row).never_ran


def _in_turn(flights: Flights, state: JobsState, rows: list[int]) -> dict[int, Window]:
    """One after the other: those that ended by their ends, then the first of those that are there."""
    ended = {int(end) for end in flights.end[np.array(rows, np.int64)] if end}
    ends = sorted({job.end_us for job in state.served} | ended)
    found: dict[int, Window] = {}
    for row in rows:
        start, end = int(flights.start[row]), int(flights.end[row])
        if end:
            at = bisect_left(ends, end)
            before = ends[at - 1] if at else _forgotten_us(state, end)
            found[row] = Window(min(max(start, before), end), end)
    there = [row for row in rows if not flights.end[row]]
    if there:
        first = min(there, key=lambda row: (int(flights.start[row]), int(flights.handle[row])))
        found[first] = Window(max(int(flights.start[first]), ends[-1] if ends else 0), None)
    return found


def _forgotten_us(state: JobsState, end_us: int) -> int:
    """When the job before one that ended then may have ended, where it is remembered no more."""
    if len(state.served) < LATEST:
        return 0
    return end_us - sorted(job.ran_us for job in state.served)[LATEST // 2]


def _side_by_side(flights: Flights, state: JobsState, rows: list[int]) -> dict[int, Window]:
    """Several at a time, in the order in which they came."""
    free = seats(state)
    here = {(int(flights.start[row]), int(flights.end[row])) for row in rows}
    gone = [(job.start_us, job.end_us, -1) for job in state.served if (job.start_us, job.end_us) not in here]
    jobs = [(int(flights.start[row]), int(flights.end[row]), row) for row in rows]
    taken: list[int] = []
    found: dict[int, Window] = {}
    for start, end, row in sorted(gone + jobs):
        begin = start
        if len(taken) >= free:
            if (freed := heapq.heappop(taken)) == _NEVER:
                heapq.heappush(taken, freed)
                if not end:
                    continue  # it waits
            else:
                begin = max(start, freed)
        heapq.heappush(taken, end or _NEVER)
        if row >= 0:
            found[row] = Window(begin if not end or begin < end else start, end or None)
    return found


_NEVER = 1 << 62


def overlaps(found: Sequence[Window], t0_us: int, t1_us: int) -> tuple[int, int]:
    """Time within [t0_us, t1_us) that jobs ran, summed, and the time in which any did."""
    inside = sorted(
        (max(w.begin_us, t0_us), min(t1_us if w.end_us is None else w.end_us, t1_us)) for w in found
    )
    total = union = reached = 0
    for begin, end in inside:
        if end > begin:
            total += end - begin
            union += max(end - max(begin, reached), 0)
            reached = max(reached, end)
    return total, union


def note_end(state: JobsState, job: Served, since_us: int) -> None:
    """A job ended, `since_us` after the end of another one or its own beginning, if that was later.

    One that ends so soon after another that it cannot have begun behind it shows that they ran together, and
    tells nothing of how long it takes alone.
    """
    if job.ran_us and not job.lone and (usual_us := _usual_us(state, job.size_j)) is not None:
        soon = since_us < TOO_SOON * usual_us
        state.together += TOGETHER_MEMORY * (soon - state.together)
        if soon and seats(state) == 1:
            job = Served(job.start_us, job.end_us, job.size_j, 0)
    state.served.append(job)
    state.served.sort(key=lambda served: served.end_us)
    del state.served[:-LATEST]


def _usual_us(state: JobsState, size_j: float) -> int | None:
    """What a job of just this size takes: one that was alone, if there was any."""
    like = [job for job in state.served if job.ran_us > 0 and job.size_j == size_j]
    alone = [job.ran_us for job in like if job.lone]
    return alone[-1] if alone else like[-1].ran_us if like else None
