"""Settles what can be settled, and concludes requests: their records, and what those were off by."""

from __future__ import annotations

import numpy as np

from accounting.ledger.facts import Facts
from accounting.ledger.flights import Flights
from accounting.ledger.group import Group
from accounting.ledger.groups import Groups
from accounting.ledger.hosts import Hosts
from accounting.ledger.intervals import HOLD_US, INTERVAL_US, MAX_WAIT_US, number
from accounting.ledger.news import split_anew
from accounting.ledger.record import add_try, correction_of, is_as_recorded, record_of
from accounting.ledger.settle import settle_group
from accounting.records import Output, RequestRecord

MOST_AT_ONCE, PARTS = 16, 40
"""So many requests, or this part of those that wait, are concluded at a tick: what ends by the thousand shall
not hold up the streams of others while it is written down. Ticks come sooner while some wait."""


class Conclusions:
    def __init__(self, flights: Flights, groups: Groups, hosts: Hosts, facts: Facts) -> None:
        self._flights, self._groups, self._hosts, self._facts = flights, groups, hosts, facts
        self.held = int(flights.concluded[: flights.rows].sum())
        """Requests whose record is out and may still be corrected."""
        self.look = True
        """Whether some are left to conclude though no interval may be settled at the next tick."""

    def settle(self, watermark_us: int, now_us: int) -> list[Output]:
        """Settle every interval that is over, and conclude the requests that end with it."""
        out: list[Output] = []
        for group in self._groups.all:
            while (end := _next_end(group, watermark_us)) is not None:
                out += settle_group(group, self._flights, end, self._hosts, self._facts)
            out += self._facts.due(group, self._groups.idle_power_uw)
        out += self._hosts.settle(self._groups.all, self._flights, watermark_us)
        if out or self.look or self._hosts.left:
            self.look = self._hosts.left = False
            out += self._conclude_the_settled()
            out += self._let_go_of_the_sure(now_us)
        return out

    def _conclude_the_settled(self) -> list[Output]:
        """Requests whose intervals are settled, a part of them at a time where they are many."""
        if not self._groups.all:
            return []
        flights, n = self._flights, self._flights.rows
        settled = np.array([self._settled_us(group) for group in self._groups.all], np.int64)
        ends, groups = flights.end[:n], flights.group[:n]
        over = (groups >= 0) & (ends > 0) & ~flights.concluded[:n]
        rows = flights.in_order(np.flatnonzero(over & (settled[groups] > ends)))
        kept = np.zeros(len(rows), np.bool_)
        for group in self._groups.all:
            mine = flights.group[rows] == group.number
            kept[mine] = group.history.touch(flights.start[rows[mine]], flights.end[rows[mine]])
        known = set(flights.handle[rows].tolist())
        most = max(MOST_AT_ONCE, len(rows) // PARTS)
        out: list[Output] = []
        for row, hold in zip(rows.tolist(), kept.tolist(), strict=True):
            told = flights.teller(row)
            if told.is_try or not known.issuperset(told.tries):
                continue
            out.append(self.conclude(int(flights.handle[row]), hold=hold))
            if len(out) == most:
                self.look = True
                break
        return out

    def _settled_us(self, group: Group) -> int:
        """Up to here its requests get nothing more, from their hosts neither."""
        hosts = self._hosts.around(group.gpus)
        return min(group.settled_us, *(host.settled_us for host in hosts)) if hosts else group.settled_us

    def conclude(self, handle: int, *, hold: bool = False) -> RequestRecord:
        """A request's final record. It is kept with `hold`, as that may still be corrected."""
        flights = self._flights
        record = own = self.record(handle, final=True)
        row = flights.row[handle]
        told = flights.teller(row)
        if told.tries:
            for earlier in told.tries:
                self._note_retry(flights.row[earlier])
                flights.remove(earlier)
            told.tries = []
            own = self.record(handle, final=True)
        if hold:
            flights.concluded[row] = True
            told.recorded = own
            self.held += 1
        else:
            flights.remove(handle)
        return record

    def _note_retry(self, row: int) -> None:
        """A failed try goes into the record of its request. The backend that failed it has it in its facts,
        in the minute that is being settled: an earlier one may be told already."""
        group, failed = self._groups.of(self._flights, row), self._flights.teller(row)
        if group is not None and failed.backend is not None:
            energy_uj = record_of(self._flights, row, group, final=True).energy_uj or 0
            self._facts.retried(failed.backend, group.settled_us, energy_uj)

    def _let_go_of_the_sure(self, now_us: int) -> list[Output]:
        """Those with a record of whose time nothing is kept any more."""
        if not self.held:
            return []
        flights, n = self._flights, self._flights.rows
        sure = [np.flatnonzero(flights.concluded[:n] & (flights.group[:n] < 0))]
        for group in self._groups.all:
            rows = np.flatnonzero(flights.concluded[:n] & (flights.group[:n] == group.number))
            sure.append(rows[~group.history.touch(flights.start[rows], flights.end[rows])])
        handles = np.sort(flights.handle[np.concatenate(sure)])
        most = max(MOST_AT_ONCE, len(handles) // PARTS)
        self.look |= len(handles) > most
        return self._let_go(handles[:most].tolist(), now_us)

    def _let_go(self, handles: list[int], now_us: int) -> list[Output]:
        """Nothing more can become known of these: say what their records were off by."""
        out: list[Output] = []
        for handle in handles:
            row = self._flights.row[handle]
            recorded = self._flights.teller(row).recorded
            assert recorded is not None
            if not is_as_recorded(self._flights, row, recorded):
                correction = correction_of(recorded, self.record(handle, final=True), now_us)
                if correction is not None:
                    out.append(correction)
            self._flights.remove(handle)
            self.held -= 1
        return out

    def close(self, now_us: int) -> list[Output]:
        """Nothing more will be heard: bring up to date what is kept, and say what records were off by."""
        for group in self._groups.all:
            split_anew(self._flights, group)
        flights = self._flights
        held = np.flatnonzero(flights.concluded[: flights.rows])
        return self._let_go(np.sort(flights.handle[held]).tolist(), now_us)

    def record(self, handle: int, *, final: bool) -> RequestRecord:
        """What is settled of a request, failed tries at other backends included."""
        row = self._flights.row[handle]
        record = self._record(row, final=final)
        for earlier in self._flights.teller(row).tries:
            add_try(record, self._record(self._flights.row[earlier], final=final))
        return record

    def _record(self, row: int, *, final: bool) -> RequestRecord:
        group = self._groups.of(self._flights, row)
        record = record_of(self._flights, row, group, final=final)
        if self._hosts.all and group is not None:
            self._hosts.complete(record, self._flights, row, group.gpus_of(int(self._flights.column[row])))
        return record


def _next_end(group: Group, watermark_us: int) -> int | None:
    """The end of this group's next interval if it can be settled now."""
    end = group.settled_us + INTERVAL_US
    if watermark_us < end + HOLD_US:
        return None
    known = [gpu.curve.known_until_us for gpu in group.gpus]
    wait_us = MAX_WAIT_US + max(gpu.curve.slack_us for gpu in group.gpus)
    if all(t is not None and t >= end for t in known):
        sure = min(min(t for t in known if t is not None), watermark_us - HOLD_US)
    elif watermark_us < end + wait_us:
        return None
    else:
        sure = watermark_us - wait_us  # a meter is away
    # One entry, however long, for time without energy to share: else days of downtime would be settled half a
    # second at a time.
    for gpu in group.gpus:
        blind = gpu.curve.blind_until(group.settled_us)
        sure = sure if blind is None else min(sure, blind)
    return max(end, number(sure) * INTERVAL_US)
