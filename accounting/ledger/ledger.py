"""Hears events, settles intervals, concludes records.

Pure: what comes out depends only on the events heard, in their order. `hear` never raises for what events
say; nonsense (a handle nobody opened, times that run backwards) is let go.
"""

from __future__ import annotations

import numpy as np

from accounting.events import (
    HANDLE_BITS,
    AnyEvent,
    BackendDeclared,
    CounterReads,
    EngineCounters,
    FirstToken,
    MeterDown,
    MeterUp,
    RequestFinished,
    RequestStarted,
    RequestTimes,
    ServiceStarted,
    Tick,
    Usage,
    source_of,
)
from accounting.ledger import booking, bypass
from accounting.ledger.flights import Flights, Told
from accounting.ledger.group import Group
from accounting.ledger.groups import Groups
from accounting.ledger.intervals import INTERVAL_US, RING, number
from accounting.ledger.news import first_by_steps, lay_answer, lay_prompt, split_anew
from accounting.ledger.provisional import add_estimate
from accounting.ledger.record import METHOD, correction_of, record_of
from accounting.ledger.sanity import MAX_TOKENS, sound_times, sound_usage
from accounting.ledger.settle import settle_group
from accounting.ledger.state import BackendState, LedgerState
from accounting.records import Output, RequestRecord

HOLD_US = 300_000
"""An interval waits this long past its end, so that short unstreamed answers are known when it is split."""

MAX_WAIT_US = 5_000_000
"""An interval waits at most this long for the counter, and `Curve.slack_us` longer for a slow one; then it is
booked without it."""


class Ledger:
    def __init__(self, state: LedgerState | None = None) -> None:
        self.state = state if state is not None else LedgerState()

    @property
    def state(self) -> LedgerState:
        """All of its memory, written down. A ledger that begins with it goes on just as this one does."""
        state = self._groups.state()
        state.open = self._flights.write_down()
        state.watermarks, state.last_handles = dict(self._watermarks), dict(self._last_handles)
        return state

    @state.setter
    def state(self, state: LedgerState) -> None:
        self._flights = Flights()
        self._groups = Groups(state)
        self._watermarks = dict(state.watermarks)
        self._last_handles = dict(state.last_handles)
        for request in state.open.values():
            group, column = self._groups.place(request.told.backend, request.told.gpus)
            settled_us = self._groups.all[group].settled_us if group >= 0 else 0
            self._flights.take_up(request, group, column, settled_us)
        self._concluded = sum(request.told.recorded is not None for request in state.open.values())

    @property
    def open_requests(self) -> int:
        """Requests in flight, or ended and not settled."""
        return len(self._flights) - self._concluded

    def holds(self, handle: int) -> bool:
        """Whether this request is in flight, or ended and not settled."""
        row = self._flights.row.get(handle)
        return row is not None and not self._flights.concluded[row]

    def watermark_us(self, source: int) -> int:
        """Everything that this source saw before has been heard; 0 if it was never heard."""
        return self._watermarks.get(source, 0)

    def next_handle(self, source: int) -> int:
        """A handle that this source has never used."""
        return self._last_handles.get(source, source << HANDLE_BITS) + 1

    # -- hearing ---------------------------------------------------------------------------------------------

    def hear(self, event: AnyEvent) -> list[Output]:
        match event:
            case Tick():
                return self._tick(event)
            case CounterReads():
                self._groups.read(event)
            case RequestStarted():
                return self._started(event)
            case FirstToken():
                self._first(event)
            case RequestFinished():
                return self._finished(event)
            case BackendDeclared():
                return self._declared(event)
            case MeterUp():
                self._groups.meter_up(event)
                self._regroup()
            case MeterDown():
                pass  # the gap will show in the reads
            case ServiceStarted():
                return self._service_started(event)
            case EngineCounters():
                if (backend := self._groups.backends.get(event.backend)) is not None:
                    bypass.count(backend, event)
            case RequestTimes():
                self._times(event)
        return []

    def _declared(self, event: BackendDeclared) -> list[Output]:
        out = self._groups.declare(event, self._flights)
        self._regroup()
        return list(out)

    def _regroup(self) -> None:
        """Groups changed: put every open request into its own."""
        for row in self._flights.row.values():
            told = self._flights.teller(row)
            group, column = self._groups.place(told.backend, told.gpus)
            self._flights.group[row], self._flights.column[row] = group, column

    def _service_started(self, event: ServiceStarted) -> list[Output]:
        """Close what a source that died had left open, at the last moment it was heard."""
        seen_until = self._watermarks.get(event.source, event.t_us)
        rows = self._flights.row
        left = [h for h, row in rows.items() if source_of(h) == event.source and not self._flights.end[row]]
        out: list[Output] = []
        for handle in sorted(left):
            why = "joulegate stopped while the request was in flight"
            out += self._finished(RequestFinished(t_us=seen_until, handle=handle, status="lost", error=why))
        self._watermarks[event.source] = max(event.t_us, seen_until)
        return out

    def _started(self, event: RequestStarted) -> list[Output]:
        if event.handle in self._flights.row:
            return []
        source = source_of(event.handle)
        self._last_handles[source] = max(event.handle, self._last_handles.get(source, 0))
        backend = self._groups.backends.get(event.backend or "")
        gpus = list(backend.gpus) if backend is not None else []
        group, column = self._groups.place(event.backend, gpus)
        row = self._flights.add(
            event.handle, Told(started=event, gpus=gpus, backend=event.backend), group, column
        )
        if backend is not None:
            booking.assume_prompt(self._flights, row, backend)
            if not event.streamed:
                booking.expect_prompt(self._flights, row, backend)
        return []

    def _first(self, event: FirstToken) -> None:
        row = self._flights.row.get(event.handle)
        if row is None or self._flights.first[row] or self._flights.end[row]:
            return
        first_us = max(event.t_us, int(self._flights.start[row]), 1)
        self._flights.first[row] = first_us
        told = self._flights.teller(row)
        if event.prompt_tokens is not None:
            early = Usage(prompt_tokens=event.prompt_tokens, cached_tokens=event.cached_tokens)
            told.usage = sound_usage(early)
        group = self._group(row)
        if group is not None:
            backend = self._backend(row)
            floor_us = min(group.history.lost_us, group.settled_us)
            booking.book_prefill(self._flights, row, backend, first_us, floor_us)
            booking.note_first(backend, first_us)
            if self._flights.pre0[row] < group.settled_us:
                lay_prompt(self._flights, row, group, (first_us, first_us))

    def _times(self, event: RequestTimes) -> None:
        """An engine's trace came: as a rule when the request has ended, and often when it is settled."""
        row = self._flights.row.get(event.handle)
        if row is None or (told := self._flights.teller(row)).times is not None:
            return
        told.times = sound_times(event.times)
        group = self._group(row)
        if group is None or not self._flights.end[row] or told.status != "ok" or told.times is None:
            return
        if self._flights.streamed[row]:
            first_us, backend = int(self._flights.first[row]), self._backend(row)
            if first_us:
                floor_us = min(group.history.lost_us, group.settled_us)
                was_us = int(self._flights.pre0[row]), int(self._flights.pre1[row])
                booking.book_prefill(self._flights, row, backend, first_us, floor_us)
                lay_prompt(self._flights, row, group, was_us)
        else:
            self._book_answer(row, group)

    def _book_answer(self, row: int, group: Group) -> None:
        """Lay an answer that was not streamed into its time, as well as that is known."""
        first_us = first_by_steps(self._flights, row, group)
        booking.book_unstreamed(self._flights, row, self._backend(row), group.settled_us, first_us)
        usage = self._flights.teller(row).usage
        lay_prompt(self._flights, row, group, (int(self._flights.start[row]), int(self._flights.end[row])))
        lay_answer(self._flights, row, group, float((usage.completion_tokens if usage else None) or 0))

    def _finished(self, event: RequestFinished) -> list[Output]:
        flights = self._flights
        row = flights.row.get(event.handle)
        if row is None or flights.end[row]:
            return []
        flights.end[row] = max(event.t_us, int(flights.start[row]), 1)
        told = flights.teller(row)
        told.status, told.http_status, told.error = event.status, event.http_status, event.error
        told.usage = sound_usage(event.usage)
        told.times = sound_times(event.times) or told.times
        flights.works[row] = event.status not in ("client_error", "rejected")
        group = self._group(row)
        if event.status == "rejected" or group is None:
            return [self._conclude(event.handle)]
        backend = self._backend(row)
        told_tokens = told.usage.completion_tokens if told.usage is not None else None
        if flights.first[row] or flights.seen[row] or (flights.streamed[row] and not told_tokens):
            booking.correct(flights, row, backend)
            lay_prompt(flights, row, group, (int(flights.pre0[row]), int(flights.pre1[row])))
        elif event.status == "ok":
            self._book_answer(row, group)
        booking.learn(flights, row, backend)
        return []

    def _tick(self, event: Tick) -> list[Output]:
        before = self._watermarks.get(event.source, 0)
        if event.t_us < before:
            return []
        self._take_tokens(event, before)
        self._watermarks[event.source] = event.t_us
        return self._settle(min(self._watermarks.values()))

    def _take_tokens(self, event: Tick, before_us: int) -> None:
        flights, find = self._flights, self._flights.row.get
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
        settled = [group.settled_us for group in self._groups.all]
        oldest, newest = min(settled, default=0), max(settled, default=0)
        if number(before_us) >= max(k - 1, number(newest)) and k - number(oldest) < RING:
            # The usual case: the tick lies in one interval, or two, that are open everywhere.
            begins = np.where(flights.first[rows] > 0, flights.first[rows], flights.start[rows])
            begins = np.clip(begins, before_us, event.t_us)
            edge_us = k * INTERVAL_US
            before = np.clip(edge_us - begins, 0, None) / np.maximum(event.t_us - begins, 1)
            np.add.at(flights.tokens[:, (k - 1) % RING], rows, counts * before)
            np.add.at(flights.tokens[:, k % RING], rows, counts * (1.0 - before))
            return
        for row, count in zip(rows.tolist(), counts.tolist(), strict=True):
            group = self._group(row)
            if group is not None:
                begin = min(max(before_us, int(flights.first[row]) or int(flights.start[row])), event.t_us)
                booking.add_tokens(flights, row, float(count), begin, event.t_us, group.settled_us)

    def _group(self, row: int) -> Group | None:
        place = int(self._flights.group[row])
        return self._groups.all[place] if place >= 0 else None

    def _backend(self, row: int) -> BackendState:
        return self._groups.backends[self._flights.teller(row).backend or ""]

    # -- settling --------------------------------------------------------------------------------------------

    def _settle(self, watermark_us: int) -> list[Output]:
        """Settle every interval that is over, and conclude the requests that end with it."""
        out: list[Output] = []
        for group in self._groups.all:
            while (end := _next_end(group, watermark_us)) is not None:
                out += settle_group(group, self._flights, end)
        if out:
            flights = self._flights
            settled = np.array([group.settled_us for group in self._groups.all], np.int64)
            ends, groups = flights.end[: flights.rows], flights.group[: flights.rows]
            over = (groups >= 0) & (ends > 0) & ~flights.concluded[: flights.rows]
            done = np.flatnonzero(over & (settled[groups] > ends))
            out += [self._conclude(handle) for handle in np.sort(flights.handle[done]).tolist()]
            out += self._let_go_of_the_sure()
        return out

    def _conclude(self, handle: int) -> RequestRecord:
        """Its final record. The request is kept as long as that may still be corrected."""
        flights = self._flights
        record = self._record(handle, final=True)
        row = flights.row[handle]
        group = self._group(row)
        if group is not None and group.history.touch(flights.start[[row]], flights.end[[row]])[0]:
            flights.concluded[row] = True
            flights.teller(row).recorded = record
            self._concluded += 1
        else:
            flights.remove(handle)
        return record

    def _let_go_of_the_sure(self) -> list[Output]:
        """Those with a record of whose time nothing is kept any more."""
        flights, out = self._flights, []
        n = flights.rows
        for group in self._groups.all:
            rows = np.flatnonzero(flights.concluded[:n] & (flights.group[:n] == group.number))
            sure = rows[~group.history.touch(flights.start[rows], flights.end[rows])]
            out += self._let_go(np.sort(flights.handle[sure]).tolist())
        return out

    def _let_go(self, handles: list[int]) -> list[Output]:
        """Nothing more can become known of these: say what their records were off by."""
        out: list[Output] = []
        for handle in handles:
            recorded = self._flights.teller(self._flights.row[handle]).recorded
            assert recorded is not None
            correction = correction_of(recorded, self._record(handle, final=True), self._now_us)
            self._flights.remove(handle)
            self._concluded -= 1
            if correction is not None:
                out.append(correction)
        return out

    def close(self) -> list[Output]:
        """Nothing more will be heard: bring up to date what is kept, and say what records were off by."""
        for group in self._groups.all:
            split_anew(self._flights, group)
        flights = self._flights
        held = np.flatnonzero(flights.concluded[: flights.rows] & (flights.group[: flights.rows] >= 0))
        return self._let_go(np.sort(flights.handle[held]).tolist())

    @property
    def _now_us(self) -> int:
        return max(self._watermarks.values(), default=0)

    def _record(self, handle: int, *, final: bool) -> RequestRecord:
        row = self._flights.row[handle]
        return record_of(self._flights, row, self._group(row), final=final)

    def provisional(self, handle: int) -> RequestRecord | None:
        """The record as it stands, with an estimate for the time not yet settled. None if nobody holds it."""
        row = self._flights.row.get(handle)
        if row is None or self._flights.concluded[row]:
            return None
        record = self._record(handle, final=False)
        if not self._flights.end[row]:
            record.finished_us = max(record.started_us, self._now_us)
        group = self._group(row)
        if group is not None:
            add_estimate(record, self._flights, row, group, METHOD)
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
