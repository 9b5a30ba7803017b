"""The accountant: hears what the proxy says, writes it down, keeps the ledger and feeds the store.

It lives in the event loop's thread and never waits: the journal is a local write, the store a queue, the
meter a ring in shared memory. The order of each step is what makes a crash harmless:

1. an event goes into the journal's buffer and is heard by the ledger;
2. the journal is flushed;
3. only then what the ledger concluded goes to the store.

So the store never knows more than the journal, and replaying the journal makes the same records again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from random import getrandbits
from typing import Protocol

from accounting import replay
from accounting.clock import Clock
from accounting.events import (
    MAIN,
    AnyEvent,
    BackendDeclared,
    EngineCounters,
    EngineTimes,
    FirstToken,
    JobStarted,
    Media,
    MediaTold,
    RequestFinished,
    RequestMoved,
    RequestStarted,
    RequestTimes,
    ServiceEnded,
    ServiceStarted,
    Status,
    Tick,
    Usage,
)
from accounting.journal import Journal, JournalError
from accounting.ledger import Ledger
from accounting.meters.contract import Meter
from accounting.meters.several import Several
from accounting.records import Correction, Output, RequestRecord, corrected, uid_at

log = logging.getLogger(__name__)

TICK_S = 0.05
"""How often token counts and counter reads are handed on."""

SOON_S = 0.01
"""The same while requests wait for their records: many small ticks hold nobody up."""

RECENT = 2_000
"""Settled records kept in memory, for whoever asks before the store has them."""

Heard = (
    ServiceStarted
    | ServiceEnded
    | RequestStarted
    | RequestMoved
    | MediaTold
    | JobStarted
    | FirstToken
    | Tick
    | RequestFinished
)
"""What a worker says, and what is said of it."""


class Sink(Protocol):
    """Where settled outputs go (the store's writer). `put` never waits."""

    def put(self, outputs: Sequence[Output], segment: int) -> None: ...
    def progress(self) -> int | None: ...
    @property
    def stored_segment(self) -> int | None: ...


class Listener(Protocol):
    """Hears every event and every settled output, for metrics."""

    def event(self, event: AnyEvent) -> None: ...
    def output(self, output: Output) -> None: ...


class Asker(Protocol):
    """Who waits for the record of a request that has ended."""

    @property
    def request_id(self) -> str: ...
    def told(self, record: RequestRecord | None) -> None:
        """The end is in the journal, and this is the record so far."""


class Accountant:
    """Use: `recover`, `declare` each backend, then `tick` as it says; requests come in between.

    With `later`, which has something called once the present callbacks of the event loop are done, all
    requests that end in one turn of the loop are written down with one write: see `answers_later`.
    """

    def __init__(
        self,
        clock: Clock,
        journal: Journal,
        sink: Sink,
        meter: Meter | None = None,
        *,
        version: str,
        listener: Listener | None = None,
        keep_segments: int = 20,
        later: Callable[[Callable[[], None]], object] | None = None,
    ) -> None:
        self.clock = clock
        self.ledger = Ledger()
        self.journal = journal
        self._sink, self._meter, self._listener = sink, meter or Several(), listener
        self._version, self._keep_segments = version, keep_segments
        self._outputs: list[Output] = []
        self._counts: dict[int, int] = {}
        self._next_handle = 0
        self._by_request_id: dict[str, int] = {}
        self._recent: dict[str, RequestRecord] = {}
        self._flying = 0
        self._later = later
        self._ending = False
        self._asking: list[tuple[int, Asker]] = []

    def recover(self) -> int:
        """Take up where the last run ended: replay the journal, begin a new segment. Returns outputs made."""
        made = 0
        self.ledger, outputs = replay.recover(self.journal.directory, self._sink.progress())
        for segment, out in outputs:
            self._sink.put(out, segment)
            made += len(out)
        self.journal.begin_segment(self.ledger.state)
        sources = self.ledger.watermarks_us
        written_us = max(sources.values(), default=0)
        if (behind_us := written_us - self.clock.now_us()) > 0:
            log.warning("the clock is %.1f s behind the journal; times go on from there", behind_us / 1e6)
            self.clock = self.clock.not_before(written_us + 1)
        now_us = self.clock.now_us()
        for worker in sorted(sources.keys() - {MAIN}):
            self._say(ServiceEnded(t_us=now_us, source=worker))
        self._say(ServiceStarted(t_us=now_us, source=MAIN, version=self._version))
        self._next_handle = self.ledger.next_handle(MAIN)
        self._flush()
        return made

    def attach(self, meter: Meter) -> None:
        """Read this meter from now on. Make it with `clock` as it is after `recover`."""
        self._meter = meter
        if self.ledger.open_requests:
            meter.set_busy(True)

    def tell(self, event: RequestTimes | EngineCounters) -> None:
        """What an engine told of itself or of a request."""
        self._say(event)

    def declare(self, event: BackendDeclared) -> None:
        self._say(event)

    def start(
        self,
        request_id: str,
        *,
        route: str,
        backend: str | None,
        model: str | None,
        tenant: str | None,
        streamed: bool,
        body_bytes: int,
        sequences: int = 1,
        project: str | None = None,
        user_id: str | None = None,
        api_key: str | None = None,
        media: Media | None = None,
    ) -> int:
        """A request goes to its backend now. Returns the handle for the calls below."""
        handle = self._next_handle
        self._next_handle += 1
        now_us = self.clock.now_us()
        event = RequestStarted(
            t_us=now_us,
            handle=handle,
            # Time first, as in UUIDs of version 7 (RFC 9562): new rows lie together, and days apart.
            uid=f"{uid_at(now_us)}{getrandbits(80):020x}",
            request_id=request_id,
            backend=backend,
            model=model,
            route=route,
            tenant=tenant,
            streamed=streamed,
            body_bytes=body_bytes,
            sequences=sequences,
            project=project,
            user_id=user_id,
            api_key=api_key,
            media=media,
        )
        self._opened(event)
        return handle

    def _opened(self, event: RequestStarted) -> None:
        self._by_request_id[event.request_id] = event.handle
        self._flying += 1
        if self._flying == 1:
            self._meter.set_busy(True)
        self._say(event)

    def move(self, handle: int, backend: str) -> None:
        """The request's backend failed before it answered; from now on it is with this one."""
        now = self.clock.now_us()
        self._say_tick(now)
        self._say(RequestMoved(t_us=now, handle=handle, backend=backend))

    def media(self, handle: int, media: Media) -> None:
        """More is known of the images or videos that a request asks for."""
        self._say(MediaTold(t_us=self.clock.now_us(), handle=handle, media=media))

    def job(self, handle: int, job: str) -> None:
        """The request goes on as a job of its backend: no `finish` follows, but an `end_job`."""
        self.hear(JobStarted(t_us=self.clock.now_us(), handle=handle, job=job))
        self._flush()

    def end_job(self, event: RequestFinished) -> None:
        """A job is over, as its backend says."""
        self._say(event)
        self._flush()

    def first(self, handle: int) -> None:
        """The first token came by."""
        self._say(FirstToken(t_us=self.clock.now_us(), handle=handle))

    def tokens(self, handle: int, count: int) -> None:
        """`count` stream events came by. Cheap: they are said together at the next tick."""
        self._counts[handle] = self._counts.get(handle, 0) + count

    def finish(
        self,
        handle: int,
        status: Status,
        http_status: int | None,
        *,
        usage: Usage | None = None,
        times: EngineTimes | None = None,
        error: str | None = None,
        goes_on: bool = False,
    ) -> RequestRecord | None:
        """The request is over: write that down, then return its record so far (provisional).

        None where that is done `later`, and where the record is final at once: nothing is measured there.
        """
        now = self.clock.now_us()
        self._flying -= 1
        if handle in self._counts:  # its tokens have to be said before its end
            self._say_tick(now)
        self._say(
            RequestFinished(
                t_us=now,
                handle=handle,
                status=status,
                http_status=http_status,
                usage=usage,
                times=times,
                error=error,
                goes_on=goes_on,
            )
        )
        if self._later is None:
            self._flush()
            return self.ledger.provisional(handle)
        if not self._ending:
            self._ending = True
            self._later(self._end)
        return None

    def _end(self) -> None:
        """Write down what ended in this turn of the loop, and tell those who wait for it."""
        self._ending = False
        self._flush()
        asking, self._asking = self._asking, []
        for handle, asker in asking:
            asker.told(self.so_far(handle, asker.request_id))

    def so_far(self, handle: int, request_id: str) -> RequestRecord | None:
        """The record of a request as it is now. Where nothing is measured it is final at its end."""
        return self.ledger.provisional(handle) or self._recent.get(request_id)

    def find(self, request_id: str) -> RequestRecord | None:
        """A request in flight or settled just now; None where the store has to be asked."""
        handle = self._by_request_id.get(request_id)
        if handle is not None and (record := self.ledger.provisional(handle)) is not None:
            return record
        return self._recent.get(request_id)

    def hear(self, event: Heard) -> None:
        """What a worker said, in its order. It is on its way to the disk after the next `flush`."""
        if isinstance(event, RequestStarted):
            self._opened(event)
            return
        if isinstance(event, RequestFinished | JobStarted):
            self._flying -= 1
        self._say(event)

    def flush(self) -> None:
        """Write down what was heard; then what came of it may go to the store."""
        self._flush()

    def answers_later(self, handle: int, asker: Asker) -> bool:
        """Whether this request's end has yet to reach the journal; the asker is told once it is there."""
        if self._later is None:
            return False
        self._asking.append((handle, asker))
        return True

    @property
    def in_flight(self) -> int:
        return self._flying

    @property
    def settled(self) -> bool:
        """Whether no request is waiting for its final figure, save those that go on without us."""
        return self.ledger.open_requests <= self.ledger.lasting_jobs

    def tick(self) -> float:
        """Hand on what came since the last tick, settle what can be settled, keep the journal in size.

        The next one should come in so many seconds.
        """
        for event in self._meter.drain():
            self._say(event)
        self._say_tick(self.clock.now_us())
        self._flush()
        if self._flying == 0 and not self.ledger.open_requests:
            self._meter.set_busy(False)
        if self.journal.wants_new_segment:
            self._begin_segment()
        return SOON_S if self.ledger.more_to_conclude else TICK_S

    def _begin_segment(self) -> None:
        try:
            self.journal.begin_segment(self.ledger.state)
        except JournalError as error:
            log.error("%s; going on with the old segment", error)
            return
        if (stored := self._sink.stored_segment) is not None:
            self.journal.drop_before(min(stored, self.journal.segment - self._keep_segments))

    def close(self) -> None:
        """Say the last tick, let go of the journal. What it leaves open the next start closes as lost."""
        self.tick()
        self.journal.close()

    def _say(self, event: AnyEvent) -> None:
        self.journal.append(event)
        out = self.ledger.hear(event)
        if self._listener is not None:
            self._listener.event(event)
        for output in out:
            self._remember(output)
            if self._listener is not None:
                self._listener.output(output)
        self._outputs += out

    def _remember(self, output: Output) -> None:
        """Keep records for those who ask, with their corrections."""
        if isinstance(output, RequestRecord):
            if not self.ledger.holds(self._by_request_id.get(output.request_id, -1)):
                # A client may use an id twice: the other request may still be in flight.
                self._by_request_id.pop(output.request_id, None)
            self._recent[output.request_id] = output
            while len(self._recent) > RECENT:
                del self._recent[next(iter(self._recent))]
        elif isinstance(output, Correction):
            record = self._recent.get(output.request_id)
            if record is not None and record.uid == output.uid:
                self._recent[output.request_id] = corrected(record, output)

    def _say_tick(self, now_us: int) -> None:
        counts, self._counts = self._counts, {}
        self._say(Tick(t_us=now_us, source=MAIN, handles=list(counts), tokens=list(counts.values())))

    def _flush(self) -> None:
        if self.journal.flush() and self._outputs:
            outputs, self._outputs = self._outputs, []
            self._sink.put(outputs, self.journal.segment)
