"""Hears of images and videos in flight: what they are, that they became jobs, that they end or are left."""

from __future__ import annotations

from accounting.events import JobStarted, MediaTold, RequestFinished
from accounting.ledger import jobs_news
from accounting.ledger.flights import Flights
from accounting.ledger.groups import Groups
from accounting.ledger.jobs_state import JobsState


class OpenJobs:
    def __init__(self, flights: Flights, groups: Groups) -> None:
        self._flights, self._groups = flights, groups
        self._left = {
            handle
            for handle, row in flights.row.items()
            if flights.teller(row).left_us and not flights.end[row]
        }

    def is_job(self, row: int) -> bool:
        """Whether it is for images or videos, at a backend that is measured."""
        return self._state(row) is not None

    @property
    def lasting(self) -> int:
        """Requests that go on without a client: jobs, and what was left."""
        flights = self._flights
        return sum(
            not flights.end[row] and (flights.teller(row).job is not None or handle in self._left)
            for handle, row in flights.row.items()
        )

    def told(self, event: MediaTold) -> None:
        """More is known of what a request asks for."""
        row = self._flights.row.get(event.handle)
        if row is not None and self._flights.teller(row).media is not None and not self._flights.end[row]:
            self._flights.teller(row).media = event.media

    def began(self, event: JobStarted) -> None:
        """It goes on as a job of its backend, whatever becomes of its client."""
        row = self._flights.row.get(event.handle)
        if row is not None and not self._flights.end[row]:
            self._flights.teller(row).job = event.job

    def leave(self, row: int, event: RequestFinished) -> bool:
        """Nobody waits for it any more. Whether it stays open, as its server works on: it has begun."""
        told, group, state = self._flights.teller(row), self._groups.of(self._flights, row), self._state(row)
        if not event.goes_on or group is None or state is None or told.left_us:
            return False
        if not jobs_news.runs(self._flights, row, group, state):
            return False
        told.left_us = max(event.t_us, int(self._flights.start[row]), 1)
        self._left.add(event.handle)
        return True

    def end(self, row: int, end_us: int) -> None:
        group, state = self._groups.of(self._flights, row), self._state(row)
        assert group is not None
        assert state is not None
        jobs_news.end(self._flights, row, group, state, end_us)
        self._left = {handle for handle in self._left if self._open(handle)}

    def end_the_left(self, now_us: int) -> bool:
        """End those whose server must be done by `now_us`; whether there were any."""
        some = False
        for handle in sorted(self._left):
            row = self._flights.row[handle]
            group, state = self._groups.of(self._flights, row), self._state(row)
            if group is None or state is None:  # it moved to where nothing is measured: nobody will tell
                self._flights.end[row] = max(now_us, self._flights.teller(row).left_us)
                self._left.discard(handle)
                some = True
                continue
            end_us = jobs_news.end_of_left(self._flights, row, group, state, now_us)
            if end_us is not None:
                some = True
                self._left.discard(handle)
                jobs_news.end(self._flights, row, group, state, end_us)
        return some

    def _open(self, handle: int) -> bool:
        row = self._flights.row.get(handle)
        return row is not None and not self._flights.end[row]

    def _state(self, row: int) -> JobsState | None:
        backend = self._groups.backends.get(self._flights.teller(row).backend or "")
        return backend.jobs if backend is not None and self._flights.group[row] >= 0 else None
