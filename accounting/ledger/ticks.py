"""The tokens that a tick tells, booked into the intervals in which they came."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from accounting.events import Tick
from accounting.ledger import booking
from accounting.ledger.flights import Flights
from accounting.ledger.group import Group
from accounting.ledger.intervals import INTERVAL_US, RING, number
from accounting.ledger.sanity import MAX_TOKENS


def take_tokens(flights: Flights, groups: Sequence[Group], event: Tick, before_us: int) -> None:
    """Book the tokens of requests in flight, spread over the time since the tick at `before_us`."""
    find = flights.row.get
    n = min(len(event.handles), len(event.tokens))
    if not n:
        return
    rows = np.fromiter((find(handle, -1) for handle in event.handles[:n]), np.int64, n)
    counts = np.array([c if 0 < c <= MAX_TOKENS else 0 for c in event.tokens[:n]], np.int64)
    known = (rows >= 0) & (counts > 0)
    known[known] = flights.end[rows[known]] == 0
    rows, counts = rows[known], counts[known]
    np.add.at(flights.seen, rows, counts)
    k = number(event.t_us)
    settled = [group.settled_us for group in groups]
    oldest, newest = min(settled, default=0), max(settled, default=0)
    if number(before_us) >= max(k - 1, number(newest)) and k - number(oldest) < RING:
        # The usual case: the tick lies in one interval, or two, that are open everywhere.
        begins = np.where(flights.first[rows] > 0, flights.first[rows], flights.start[rows])
        begins = np.clip(begins, before_us, event.t_us)
        edge_us = k * INTERVAL_US
        before = np.clip(edge_us - begins, 0, None) / np.maximum(event.t_us - begins, 1)
        np.add.at(flights.tokens[(k - 1) % RING], rows, counts * before)
        np.add.at(flights.tokens[k % RING], rows, counts * (1.0 - before))
        return
    for row, count in zip(rows.tolist(), counts.tolist(), strict=True):
        place = int(flights.group[row])
        if place >= 0:
            begin = min(max(before_us, int(flights.first[row]) or int(flights.start[row])), event.t_us)
            booking.add_tokens(flights, row, float(count), begin, event.t_us, groups[place].settled_us)
