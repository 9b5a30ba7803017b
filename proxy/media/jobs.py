"""Which jobs there are, at which backend, whose they are, and what they cost.

A job lives longer than the request that began it, and may outlive joulegate: those in flight are in the
ledger, and so in the journal; those that are over are in the store. What was in use of late is kept here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from accounting.events import AnyEvent, JobStarted, RequestFinished, RequestStarted
from accounting.records import Correction, Output, RequestRecord, corrected
from accounting.service import Accountant
from accounting.store.queries import StoreReader
from proxy.backends import Backend, Backends
from proxy.media.video import Video

KEPT = 10_000
"""Jobs that are over, in memory; the others are in the store."""

SECOND_US = 1_000_000


@dataclass(slots=True)
class Job:
    """One job. `handle` is None where it was over before joulegate started."""

    id: str
    backend: str | None
    handle: int | None = None
    record: RequestRecord | None = None
    """Its final one."""
    open: bool = False
    seen_us: int = 0
    """When it was last seen to go on."""


class Jobs:
    """A listener of the accountant; `find` and `ended` are for routes and the poller."""

    def __init__(self, accountant: Accountant, backends: Backends, reader: StoreReader) -> None:
        self._accountant, self._backends, self._reader = accountant, backends, reader
        self._by_id: dict[str, Job] = {}
        self._by_handle: dict[int, Job] = {}
        self._backend_of: dict[int, str | None] = {}
        self.began: Callable[[Job], None] = lambda _: None
        """Called with each job that begins."""

    def recovered(self) -> None:
        """Take up those that the ledger has in flight."""
        for handle, told in self._accountant.ledger.jobs().items():
            if told.job is not None:
                self._add(Job(told.job, told.started.backend, handle, open=True, seen_us=self._now_us))

    @property
    def open(self) -> list[Job]:
        return [job for job in self._by_id.values() if job.open]

    # hearing

    def event(self, event: AnyEvent) -> None:
        if isinstance(event, RequestStarted):
            if event.media is not None:
                self._backend_of[event.handle] = event.backend
        elif isinstance(event, JobStarted):
            backend = self._backend_of.pop(event.handle, None)
            self._add(Job(event.job, backend, event.handle, open=True, seen_us=event.t_us))
            self.began(self._by_id[event.job])
        elif isinstance(event, RequestFinished):
            self._backend_of.pop(event.handle, None)
            if (job := self._by_handle.get(event.handle)) is not None:
                job.open = False

    def output(self, output: Output) -> None:
        if isinstance(output, RequestRecord) and output.job is not None:
            job = self._by_id.get(output.job)
            if job is not None:
                job.record = output
        elif isinstance(output, Correction):
            for job in self._by_handle.values():
                if job.record is not None and job.record.uid == output.uid:
                    job.record = corrected(job.record, output)
                    return

    def _add(self, job: Job) -> None:
        self._by_id[job.id] = job
        if job.handle is not None:
            self._by_handle[job.handle] = job
        over = [known for known in self._by_id.values() if not known.open]
        for old in over[: max(len(self._by_id) - KEPT, 0)]:
            self._by_id.pop(old.id, None)
            if old.handle is not None:
                self._by_handle.pop(old.handle, None)

    # asking

    async def find(self, job_id: str) -> Job | None:
        """The job, also of a time before joulegate started. May raise StoreError."""
        job = self._by_id.get(job_id)
        if job is None:
            record = await asyncio.to_thread(self._reader.job, job_id)
            if record is not None and job_id not in self._by_id:
                self._add(Job(job_id, record.backend, record=record))
            job = self._by_id.get(job_id)
        return job

    def backend(self, job: Job) -> Backend | None:
        """Where it is, as long as that backend is configured or drains."""
        everywhere = [*self._backends.all, *self._backends.leaving]
        return next((b for b in everywhere if b.id == job.backend), None)

    def record(self, job: Job) -> RequestRecord | None:
        """What it cost so far, or in all."""
        if job.record is None and job.handle is not None:
            return self._accountant.ledger.provisional(job.handle)
        return job.record

    # ends

    def seen(self, job: Job, video: Video) -> None:
        """The server described the job just now: it may be over."""
        now_us = self._now_us
        if not job.open:
            return
        if video.over is None:
            job.seen_us = now_us
        else:
            self.ended(job, video, ended_us(video, job.seen_us, now_us))

    def ended(
        self, job: Job, video: Video | None, t_us: int, *, why: str | None = None, goes_on: bool = False
    ) -> None:
        """It is over, as `video` says; without one it failed for the reason `why`."""
        if not job.open or job.handle is None:
            return
        status = "engine_error" if video is None or video.over is None else video.over
        self._accountant.end_job(
            RequestFinished(
                t_us=t_us,
                handle=job.handle,
                status=status,
                http_status=200,
                error=why if video is None else video.fault or why,
                goes_on=goes_on,
            )
        )

    def deleted(self, job: Job) -> None:
        """The server took a deletion: it drops what waits, and forgets what runs, but works on to the end of
        that (vLLM-Omni 0.30, SGLang 0.5.23 as observed)."""
        taken_back = Video(id=job.id, status="deleted")
        self.ended(job, taken_back, self._now_us, why="the client deleted it", goes_on=True)

    @property
    def _now_us(self) -> int:
        return self._accountant.clock.now_us()


def ended_us(video: Video, seen_us: int, now_us: int) -> int:
    """When a job ended that went on at `seen_us` and is over now: as its server says in whole seconds, as far
    as that fits between the two; else in the middle."""
    told = video.completed_at
    low_us, high_us = seen_us, now_us
    if isinstance(told, int | float) and not isinstance(told, bool):
        whole_us = int(told) * SECOND_US
        if whole_us <= now_us and whole_us + SECOND_US >= seen_us:
            low_us, high_us = max(seen_us, whole_us), min(now_us, whole_us + SECOND_US)
    return (low_us + high_us) // 2


def newest_first(videos: Sequence[dict[str, object]]) -> list[dict[str, object]]:
    """Descriptions of jobs by their creation."""
    return sorted(videos, key=_created, reverse=True)


def _created(described: dict[str, object]) -> float:
    created = described.get("created_at")
    return float(created) if isinstance(created, int | float) else 0.0
