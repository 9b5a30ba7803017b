"""Settles what was reserved: hears final records and corrections, and knows after a restart what was spent.

After a restart it is what the store has and what the journal made again that the store does not have
(`accounting/access/spent.py`). Where the store cannot be asked it is a note beside the journal, and all that
was concluded since: the note says up to which output of which segment of the journal it goes, and a replay
makes the same outputs in the same order.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec
from sqlalchemy import Engine

from accounting.access import snapshot
from accounting.access.keys import scope_name
from accounting.access.spent import Spent, spent_since
from accounting.events import AnyEvent, RequestStarted
from accounting.journal import Journal
from accounting.ledger import Ledger
from accounting.records import Correction, Output, RequestRecord
from accounting.service import Sink
from accounting.store.engine import StoreError
from accounting.store.sums import DAY_US
from proxy.access.expected import Learnt, Size
from proxy.access.gate import Gate
from proxy.access.grant import Grant

log = logging.getLogger(__name__)

MOST_SETTLED = 50_000
"""Requests that a correction may still come for. It comes within a minute or two (docs/attribution.md)."""


class Note(msgspec.Struct, kw_only=True):
    """What was spent, by key and day, when so many outputs of that segment of the journal were heard."""

    segment: int
    outputs: int
    spent: list[Spent]
    learnt: dict[str, Learnt]


class Collecting:
    """A sink that remembers what passes through it, until `take`."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._passed: list[tuple[Sequence[Output], int]] | None = []

    def put(self, outputs: Sequence[Output], segment: int) -> None:
        if self._passed is not None:
            self._passed.append((tuple(outputs), segment))
        self._sink.put(outputs, segment)

    def progress(self) -> int | None:
        return self._sink.progress()

    @property
    def stored_segment(self) -> int | None:
        return self._sink.stored_segment

    def take(self) -> list[tuple[Sequence[Output], int]]:
        passed, self._passed = self._passed or [], None
        return passed


class Spending:
    """A listener of the accountant."""

    def __init__(self, gate: Gate, journal: Journal, path: Path) -> None:
        """`path`: of the note."""
        self._gate, self._journal, self._path = gate, journal, path
        self._started: dict[int, str] = {}  # uids of requests that nobody follows yet, by handle
        self._flying: dict[str, Grant] = {}
        self._settled: dict[str, tuple[str, int]] = {}
        self._segment, self._outputs = 0, 0
        self._changed = False
        self.unmeasured = 0
        """Requests under a budget of which no energy is known."""

    def follow(self, handle: int, grant: Grant) -> None:
        """This request has been started: its record will come."""
        self._flying[self._started.pop(handle)] = grant

    # Listener

    def event(self, event: AnyEvent) -> None:
        if isinstance(event, RequestStarted) and event.api_key is not None:
            self._started = {event.handle: event.uid}  # whoever follows it does so before the next starts

    def output(self, output: Output) -> None:
        if self._segment != self._journal.segment:
            self._segment, self._outputs = self._journal.segment, 0
        self._outputs += 1
        self._changed = True
        if isinstance(output, RequestRecord):
            self._record(output)
        elif isinstance(output, Correction):
            self._correct(output)

    def _record(self, record: RequestRecord) -> None:
        grant = self._flying.pop(record.uid, None)
        if record.api_key is None:
            return
        day = record.finished_us // DAY_US
        self._settled[record.uid] = record.api_key, day
        if len(self._settled) > MOST_SETTLED:
            del self._settled[next(iter(self._settled))]
        if grant is None:  # of before a restart
            self._spend(record.api_key, day, record.energy_uj or 0)
            return
        grant.settle(record, day)
        if grant.size is not None:
            self._gate.expected.learn(grant.size, record)
        if record.energy_uj is None and any(scope.limits_energy for scope in grant.scopes):
            self.unmeasured += 1

    def _correct(self, correction: Correction) -> None:
        settled = self._settled.pop(correction.uid, None)
        if settled is not None:
            self._spend(*settled, correction.energy_uj)

    def _spend(self, key: str, day: int, uj: int) -> None:
        for scope in self._gate.scopes_of(key):
            scope.spend(day, uj)

    # restarts

    def recover(
        self, engine: Engine, made_again: Sequence[tuple[Sequence[Output], int]], ledger: Ledger
    ) -> None:
        """Take up what was spent this month. `made_again`: what the journal's replay made, with its segments.

        The gate must have its keys.
        """
        note = snapshot.read(self._path, Note)
        outputs = [output for some, _ in made_again for output in some]
        for record in outputs:
            if isinstance(record, RequestRecord) and record.api_key is not None:
                self._settled[record.uid] = record.api_key, record.finished_us // DAY_US
        if note is not None:
            self._gate.expected.learnt = note.learnt
        try:
            spent = spent_since(engine, self._gate.periods.month, outputs)
        except StoreError as error:
            since = list(_since(note, made_again))
            spent = [*(note.spent if note is not None else []), *self._of(since)]
            log.warning("budgets go on from the note beside the journal: %s", error)
        for key, day, uj in spent:
            self._spend(key, day, uj)
        self._take_up(ledger)

    def _take_up(self, ledger: Ledger) -> None:
        """Requests that are not settled yet, and those that may still be corrected."""
        for handle, request in ledger.state.open.items():
            told = request.told
            if told.started.api_key is None:
                continue
            if told.recorded is not None:
                day = told.recorded.finished_us // DAY_US
                self._settled[told.started.uid] = told.started.api_key, day
                continue
            size = Size.of(told.started)
            held_uj = self._gate.expected.uj(size) or 0
            grant = Grant(self._gate, self._gate.scopes_of(told.started.api_key), size, 0, held_uj)
            grant.end(ledger.provisional(handle), None)
            self._flying[told.started.uid] = grant

    def _of(self, outputs: Iterable[Output]) -> Iterable[Spent]:
        for output in outputs:
            if isinstance(output, RequestRecord | Correction) and output.uid in self._settled:
                yield Spent(*self._settled[output.uid], output.energy_uj or 0)

    def save(self) -> None:
        """Write the note, if anything has changed. Raises OSError."""
        if not self._changed:
            return
        self._changed = False
        scopes = self._gate.scopes
        spent = [
            Spent(key.id, day, uj)
            for key in self._gate.keyring.keys
            for day, uj in scopes[scope_name("key", key.id)].days.items()
        ]
        learnt = self._gate.expected.learnt
        snapshot.save(
            self._path, Note(segment=self._segment, outputs=self._outputs, spent=spent, learnt=learnt)
        )


def _since(note: Note | None, made_again: Sequence[tuple[Sequence[Output], int]]) -> Iterable[Output]:
    """The outputs that the note does not know of."""
    heard = 0
    for outputs, segment in made_again:
        if note is not None and segment < note.segment:
            continue
        if note is not None and segment == note.segment:
            yield from outputs[max(note.outputs - heard, 0) :]
            heard += len(outputs)
        else:
            yield from outputs
