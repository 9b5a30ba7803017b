"""How fast a job gets on where other backends use its GPU too.

Processes that share a GPU without MPS take turns: while another one has work a job has little more than half
of the time, and does so much of its work in it. Taken as even it would seem to have done as much beside a
language model as alone, and would be charged what the language model drew.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING

import numpy as np

from accounting.ledger.flights import Flights
from accounting.ledger.jobs_queue import Window, overlaps

if TYPE_CHECKING:
    from accounting.ledger.group import Group

TURN = 0.6
"""Part of the time that a job has while another backend is at work: a language model's turns are the shorter
ones, as it hands out tokens between them. Found on simulated loads. Of several others the busiest counts."""


class Pace:
    """Time weighed by how fast a job of one backend gets on in it."""

    def __init__(self) -> None:
        self._edges_us = [0]
        self._lost_us = [0.0]
        """Up to each edge: how much less than time has passed it got on."""

    def slow(self, t0_us: int, t1_us: int, lost_us: float) -> None:
        """In [t0, t1], behind all that was said before, it got on by `lost_us` less than alone."""
        whole_us = self._lost_us[-1]
        self._edges_us += [t0_us, t1_us]
        self._lost_us += [whole_us, whole_us + lost_us]

    def worth_us(self, begin_us: int, end_us: int) -> float:
        """How much time alone [begin, end] is worth."""
        if end_us <= begin_us:
            return 0.0
        if len(self._edges_us) == 1:
            return end_us - begin_us
        return (end_us - begin_us) - (self._upto(end_us) - self._upto(begin_us))

    def _upto(self, t_us: int) -> float:
        after = bisect_right(self._edges_us, t_us)
        if after == len(self._edges_us):
            return self._lost_us[-1]
        t0_us, t1_us = self._edges_us[after - 1], self._edges_us[after]
        before, then = self._lost_us[after - 1], self._lost_us[after]
        return before + (then - before) * (t_us - t0_us) / (t1_us - t0_us)


ALONE = Pace()


def pace(group: Group, flights: Flights, column: int, since_us: int, until_us: int) -> Pace:
    """For the jobs of this backend, in [since, until]: by the intervals that are kept, and by what is in
    flight after them."""
    mine = set(group.backends[column].gpus)
    others = [k for k, b in enumerate(group.backends) if k != column and mine & set(b.gpus)]
    if not others:
        return ALONE
    found = Pace()
    for kept in reversed(list(group.history.since(since_us))):
        busy_us = max((kept.busy_us[k] for k in others if k < len(kept.busy_us)), default=0)
        if busy_us:
            found.slow(kept.t0_us, kept.t1_us, (1 - TURN) * busy_us)
    if until_us > group.settled_us:
        busy_us = max(_busy_us(group, flights, k, until_us) for k in others)
        if busy_us:
            found.slow(group.settled_us, until_us, (1 - TURN) * busy_us)
    return found


def _busy_us(group: Group, flights: Flights, column: int, until_us: int) -> int:
    """Time since what is settled with a request of this backend in flight."""
    n = flights.rows
    rows = np.flatnonzero(
        (flights.group[:n] == group.number) & (flights.column[:n] == column) & flights.works[:n]
    )
    spans = zip(flights.start[rows].tolist(), flights.end[rows].tolist(), strict=True)
    return overlaps([Window(begin, end or None) for begin, end in spans], group.settled_us, until_us)[1]
