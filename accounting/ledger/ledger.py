"""Hears events, settles intervals, concludes records.

Pure: what comes out depends only on the events heard, in their order. `hear` never raises for what events
say; nonsense (a handle nobody opened, times that run backwards) is let go.
"""

from __future__ import annotations

import msgspec

from accounting.events import (
    HANDLE_BITS,
    MAIN,
    AnyEvent,
    BackendDeclared,
    CounterReads,
    EngineCounters,
    FirstToken,
    GpuTelemetry,
    JobStarted,
    Media,
    MediaTold,
    MeterDown,
    MeterUp,
    RequestFinished,
    RequestMoved,
    RequestStarted,
    RequestTimes,
    ServiceEnded,
    ServiceStarted,
    Tick,
    Usage,
    source_of,
)
from accounting.ledger import booking, bypass, jobs_news
from accounting.ledger.conclude import Conclusions
from accounting.ledger.facts import Facts
from accounting.ledger.flights import Flights, Told
from accounting.ledger.group import Group
from accounting.ledger.groups import JOBS, Groups
from accounting.ledger.hosts import Hosts
from accounting.ledger.jobs_open import OpenJobs
from accounting.ledger.news import first_by_steps, lay_answer, lay_prompt
from accounting.ledger.provisional import add_estimate
from accounting.ledger.record import METHOD
from accounting.ledger.sanity import sound_times, sound_usage
from accounting.ledger.state import BackendState, LedgerState
from accounting.ledger.ticks import take_tokens
from accounting.records import BackendFacts, Output, RequestRecord, boundary_of

TRY_BITS = 4
"""A handle has room for so many bits of failed tries."""


class Ledger:
    def __init__(self, state: LedgerState | None = None) -> None:
        self.state = state if state is not None else LedgerState()

    @property
    def state(self) -> LedgerState:
        """All of its memory, written down. A ledger that begins with it goes on just as this one does."""
        state = self._groups.state()
        state.hosts, state.open = self._hosts.state(), self._flights.write_down()
        state.watermarks, state.last_handles = dict(self._watermarks), dict(self._last_handles)
        state.facts = self._facts.state()
        return state

    @state.setter
    def state(self, state: LedgerState) -> None:
        self._flights = Flights()
        self._groups, self._hosts = Groups(state), Hosts(state.hosts, state.gpus)
        self._facts = Facts(state.facts)
        self._watermarks = dict(state.watermarks)
        self._last_handles = dict(state.last_handles)
        for request in state.open.values():
            group, column = self._groups.place(request.told.backend, request.told.gpus)
            settled_us = self._groups.all[group].settled_us if group >= 0 else 0
            self._flights.take_up(request, group, column, settled_us)
        self._conclusions = Conclusions(self._flights, self._groups, self._hosts, self._facts)
        self._jobs = OpenJobs(self._flights, self._groups)

    @property
    def open_requests(self) -> int:
        """Requests in flight, or ended and not settled."""
        return len(self._flights) - self._conclusions.held

    @property
    def more_to_conclude(self) -> bool:
        """Whether the next tick should come soon: it has the rest of what this one began."""
        return self._conclusions.look

    @property
    def lasting_jobs(self) -> int:
        """Of them, images and videos that go on without a client."""
        return self._jobs.lasting

    def jobs(self) -> dict[int, Told]:
        """By handle: what is told of each job in flight that its backend knows by an id."""
        rows = sorted(self._flights.row.items())
        told = {handle: self._flights.teller(row) for handle, row in rows if not self._flights.end[row]}
        return {handle: teller for handle, teller in told.items() if teller.job is not None}

    def holds(self, handle: int) -> bool:
        """Whether this request is in flight, or ended and not settled."""
        row = self._flights.row.get(handle)
        return row is not None and not self._flights.concluded[row]

    @property
    def watermarks_us(self) -> dict[int, int]:
        """By source whose ticks are waited for: everything that it saw before this time has been heard."""
        return dict(self._watermarks)

    def next_handle(self, source: int) -> int:
        """A handle that this source has never used."""
        return self._last_handles.get(source, source << HANDLE_BITS) + 1

    # -- hearing ---------------------------------------------------------------------------------------------

    def hear(self, event: AnyEvent) -> list[Output]:
        match event:
            case Tick():
                return self._tick(event)
            case CounterReads():
                (self._hosts if boundary_of(event.gpu) == "host" else self._groups).read(event)
            case RequestStarted():
                return self._started(event)
            case RequestMoved():
                self._moved(event)
            case FirstToken():
                self._first(event)
            case RequestFinished():
                return self._finished(event)
            case BackendDeclared():
                return self._declared(event)
            case MeterUp():
                (self._hosts if boundary_of(event.gpu) == "host" else self._groups).meter_up(event)
                self._facts.metered(event, self._groups.users(event.gpu))
                self._regroup()
            case MeterDown():
                pass  # the gap will show in the reads
            case ServiceStarted():
                return self._service_started(event)
            case ServiceEnded():
                return self._service_ended(event)
            case EngineCounters():
                if (backend := self._groups.backends.get(event.backend)) is not None:
                    bypass.count(backend, event)
                    if backend.gpus:
                        self._facts.counted(event)
                of_jobs = self._groups.backends.get(event.backend + JOBS)
                if of_jobs is not None and of_jobs.jobs is not None:
                    jobs_news.look(of_jobs.jobs, event)
            case GpuTelemetry():
                self._facts.said(event, self._groups.users(event.gpu))
            case MediaTold():
                self._jobs.told(event)
            case JobStarted():
                self._jobs.began(event)
            case RequestTimes():
                self._times(event)
        return []

    def _declared(self, event: BackendDeclared) -> list[Output]:
        out = self._groups.declare(event, self._flights)
        self._regroup()
        return list(out)

    def _regroup(self) -> None:
        """Groups or hosts changed: put every open request into its own."""
        self._conclusions.look = True
        for row in self._flights.row.values():
            told = self._flights.teller(row)
            group, column = self._groups.place(told.backend, told.gpus)
            self._flights.group[row], self._flights.column[row] = group, column

    def _service_started(self, event: ServiceStarted) -> list[Output]:
        """A source begins, after what it had left open is closed."""
        out = self._close_left(event)
        self._watermarks[event.source] = max(event.t_us, self._watermarks.get(event.source, event.t_us))
        if event.source == MAIN:
            self._hosts.restarted(self._watermarks[MAIN])
        return out

    def _service_ended(self, event: ServiceEnded) -> list[Output]:
        out = self._close_left(event)
        self._watermarks.pop(event.source, None)
        return out

    def _close_left(self, event: ServiceStarted | ServiceEnded) -> list[Output]:
        """Close what a source that died had left open, at the last moment it was heard."""
        seen_until = self._watermarks.get(event.source, event.t_us)
        rows = self._flights.row
        left = [h for h, row in rows.items() if source_of(h) == event.source and not self._flights.end[row]]
        out: list[Output] = []
        for handle in sorted(left):
            if self._flights.teller(rows[handle]).job is not None:
                continue  # its backend goes on with it, and will be asked
            why = "joulegate stopped while the request was in flight"
            lost = RequestFinished(t_us=seen_until, handle=handle, status="lost", error=why, goes_on=True)
            out += self._finished(lost)
        return out

    def _started(self, event: RequestStarted) -> list[Output]:
        if event.handle in self._flights.row:
            return []
        source = source_of(event.handle)
        self._last_handles[source] = max(event.handle, self._last_handles.get(source, 0))
        name = self._name(event.backend, event.media)
        backend = self._groups.backends.get(name or "")
        gpus = list(backend.gpus) if backend is not None else []
        group, column = self._groups.place(name, gpus)
        if event.backend is not None and event.media is None and group >= 0:
            self._facts.arrived(event.backend, event.t_us)
        told = Told(started=event, gpus=gpus, backend=name, media=event.media)
        row = self._flights.add(event.handle, told, group, column)
        self._assume(row)
        return []

    def _name(self, backend: str | None, media: Media | None) -> str | None:
        """Under which the ledger knows what serves this: images and videos are kept apart from tokens."""
        if backend is None or media is None:
            return backend
        known = len(self._groups.backends)
        name = self._groups.jobs_of(backend)
        if len(self._groups.backends) != known:
            self._regroup()
        return name

    def _assume(self, row: int) -> None:
        """What is to be thought of a request before anything is seen of it."""
        name = self._flights.teller(row).backend
        backend = self._groups.backends.get(name or "")
        if backend is not None and backend.jobs is None:
            booking.assume_prompt(self._flights, row, backend)
            if not self._flights.streamed[row]:
                booking.expect_prompt(self._flights, row, backend)

    def _moved(self, event: RequestMoved) -> None:
        """The try that failed ends here, as a row of its own; the request goes on in a new one."""
        flights = self._flights
        row = flights.row.get(event.handle)
        media = None if row is None else flights.teller(row).media
        name = self._name(event.backend, media)
        backend = self._groups.backends.get(name or "")
        if row is None or flights.end[row] or flights.first[row] or backend is None:
            return
        told = flights.teller(row)
        if not backend.gpus:  # nothing is measured there: only the name changes
            told.started = msgspec.structs.replace(told.started, backend=event.backend)
            return
        moved_us = max(event.t_us, int(flights.start[row]), 1)
        tries = told.tries
        if flights.group[row] >= 0:
            tries = [*tries, -(event.handle << TRY_BITS) - len(tries) - 1]
            flights.rename(event.handle, tries[-1])
            self._hosts.rename(event.handle, tries[-1])
            flights.end[row], told.status, told.is_try = moved_us, "engine_error", True
        else:
            flights.remove(event.handle)
        started = msgspec.structs.replace(told.started, backend=event.backend)
        now = Told(started=started, gpus=list(backend.gpus), backend=name, tries=tries, media=media)
        row = flights.add(event.handle, now, *self._groups.place(name, now.gpus))
        flights.start[row] = moved_us
        self._assume(row)

    def _first(self, event: FirstToken) -> None:
        row = self._flights.row.get(event.handle)
        if row is None or self._flights.first[row] or self._flights.end[row] or self._jobs.is_job(row):
            return
        first_us = max(event.t_us, int(self._flights.start[row]), 1)
        self._flights.first[row] = first_us
        told = self._flights.teller(row)
        if event.prompt_tokens is not None:
            early = Usage(prompt_tokens=event.prompt_tokens, cached_tokens=event.cached_tokens)
            told.usage = sound_usage(early)
        group = self._groups.of(self._flights, row)
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
        group = self._groups.of(self._flights, row)
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
        if group.settled_us <= self._flights.start[row]:  # as a rule: nothing of it is settled yet
            booking.book_unstreamed(self._flights, row, self._backend(row), group.settled_us, None)
            return
        first_us = first_by_steps(self._flights, row, group)
        booking.book_unstreamed(self._flights, row, self._backend(row), group.settled_us, first_us)
        usage = self._flights.teller(row).usage
        lay_prompt(self._flights, row, group, (int(self._flights.start[row]), int(self._flights.end[row])))
        lay_answer(self._flights, row, group, float((usage.completion_tokens if usage else None) or 0))

    def _finished(self, event: RequestFinished) -> list[Output]:
        flights = self._flights
        row = flights.row.get(event.handle)
        if row is None or flights.end[row] or flights.teller(row).left_us:
            return []
        told = flights.teller(row)
        told.status, told.http_status, told.error = event.status, event.http_status, event.error
        told.usage = sound_usage(event.usage)
        told.times = sound_times(event.times) or told.times
        flights.works[row] = event.status not in ("client_error", "rejected")
        if self._jobs.leave(row, event):
            return []
        if self._jobs.is_job(row):
            self._conclusions.look = True
            self._jobs.end(row, event.t_us)
            return []
        flights.end[row] = max(event.t_us, int(flights.start[row]), 1)
        group = self._groups.of(self._flights, row)
        if group is not None and flights.end[row] < group.settled_us:
            self._conclusions.look = True  # told so late that its intervals are settled
        if event.status == "rejected" or group is None:
            return [self._conclusions.conclude(event.handle)]
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
        take_tokens(self._flights, self._groups.all, event, before)
        self._watermarks[event.source] = event.t_us
        if self._jobs.end_the_left(min(self._watermarks.values())):
            self._conclusions.look = True
        return self._conclusions.settle(min(self._watermarks.values()), self._now_us)

    def _backend(self, row: int) -> BackendState:
        return self._groups.backends[self._flights.teller(row).backend or ""]

    # -- what comes out --------------------------------------------------------------------------------------

    def close(self) -> list[Output]:
        """Nothing more will be heard: bring up to date what is kept, and say what records were off by."""
        return self._conclusions.close(self._now_us)

    def facts(self) -> list[BackendFacts]:
        """Of the minutes that are not over yet, as far as they are known."""
        return self._facts.so_far(self._groups.all, self._groups.idle_power_uw)

    @property
    def _now_us(self) -> int:
        return max(self._watermarks.values(), default=0)

    def provisional(self, handle: int) -> RequestRecord | None:
        """The record as it stands, with an estimate for the time not yet settled. None if nobody holds it."""
        row = self._flights.row.get(handle)
        if row is None or self._flights.concluded[row]:
            return None
        record = self._conclusions.record(handle, final=False)
        if not self._flights.end[row]:
            record.finished_us = max(record.started_us, self._now_us)
        group = self._groups.of(self._flights, row)
        if group is not None:
            settled_uj = record.energy_uj or 0
            add_estimate(record, self._flights, row, group, METHOD)
            if self._hosts.all:
                gpus = group.gpus_of(int(self._flights.column[row]))
                self._hosts.add_estimate(record, handle, gpus, (record.energy_uj or 0) - settled_uj)
        return record
