"""Writes what the ledger concludes to the database, in a thread of its own.

Outputs queue in memory and go to the tables in batches, each with the journal's progress in one transaction.
A row that is already there is left alone, so an output may come twice. A database that is away, locked or
full is tried again for ever; meanwhile the queue goes on in files, and what a dying process takes with it the
journal still has.

A database may also come back without what it had taken: another server took over that was behind, or an old
copy was brought back. Each transaction tells how much it has, and it gets the rest again from the journal.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Literal

from sqlalchemy import Engine
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, SQLAlchemyError, StatementError

from accounting.records import Correction, Output, RequestRecord
from accounting.store.engine import StoreAway, StoreError, migrate, reason, store_errors, writing
from accounting.store.note import Note
from accounting.store.outbox import PAGE_OUTPUTS, Outbox
from accounting.store.progress import Progress, happened_us, move_progress, read_progress
from accounting.store.retention import deleted_before_us
from accounting.store.schema import stored_text
from accounting.store.spill import Spill
from accounting.store.statements import AlreadyThereError, write

log = logging.getLogger(__name__)

FEW_OUTPUTS = 20
LINGER_S = 0.2
"""A commit costs as much as many rows: after a batch of more than a few the next one waits for others."""

RETRY_FIRST_S = 0.1
RETRY_MOST_S = 10.0
"""The wait after a failure doubles from the first to the most."""

Again = Callable[[int | None], Iterable[tuple[int, Sequence[Output]]]]
"""Makes all outputs from a segment on once more (None: from the oldest), each with its segment."""


class CameBackWithout(Exception):
    """The database has less than it had taken."""


class StoreWriter:
    """Stores outputs exactly once. `put` never blocks; everything may be called from any thread."""

    def __init__(
        self,
        engine: Engine,
        journal_id: str,
        *,
        directory: Path | None = None,
        again: Again | None = None,
        prepared: bool = True,
    ) -> None:
        """`directory` is for what memory has no room for, and for a note of how far all is stored: without
        one memory holds everything. `prepared`: whether the schema is up to date; else the writer sees to it.
        Raises OSError where the directory cannot be used.
        """
        self._engine = engine
        self._journal_id = stored_text(journal_id)
        self._note = Note(directory)
        self._spill = None if directory is None else Spill(directory)
        self._again, self._prepared = again, prepared
        if self._spill is not None:
            self._spill.clear()
        self._changed = threading.Condition()
        self._outbox = Outbox(self._changed, self._spill)
        self._puts = 0
        self._puts_stored = 0
        self._pending = 0
        self._last_error: str | None = None
        self._stored_segment: int | None = None
        self._progress: Progress | None = None  # at least so much the database must have
        self._sure = False  # the database has been asked for it since it was away
        self._owed: int | None = None  # it lacks something from this segment on
        self._newest_us: int | None = None
        self._deleted = {"requests": 0, "books": 0}  # before when rows were deleted for their age
        self._hurry = False  # flush or close asks for a try right now, without waiting for the back-off
        self._busy = False  # the last batch was more than a few outputs
        self._closed = False  # no more puts
        self._stop = False  # the thread shall end, stored or not
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)
        self._thread.start()

    def put(self, outputs: Sequence[Output], segment: int) -> None:
        """Store `outputs`. With them, all that the journal's segments before `segment` produce is stored.

        Returns at once, whatever the database does. Raises RuntimeError after `close`.
        """
        with self._changed:
            if self._closed:
                raise RuntimeError("the store's writer is closed")
            self._outbox.add((tuple(outputs), segment))
            self._puts += 1
            self._pending += len(outputs)
            self._changed.notify_all()

    @property
    def pending(self) -> int:
        """Outputs that are not stored yet."""
        with self._changed:
            return self._pending

    @property
    def last_error(self) -> str | None:
        """Why the database takes nothing at the moment, or None when it works."""
        with self._changed:
            return self._last_error

    @property
    def stored_segment(self) -> int | None:
        """`progress` as this writer has moved it, without asking the database; None before it did."""
        with self._changed:
            return self._stored_segment

    def flush(self, timeout_s: float) -> bool:
        """Try at once and wait until all that was put before is stored; False when time runs out."""
        with self._changed:
            wanted = self._puts
            self._hurry = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._puts_stored >= wanted or self._ended, timeout_s)
            return self._puts_stored >= wanted

    def close(self, timeout_s: float) -> bool:
        """Take no more puts, store what is left and end the thread; False when something was left unstored.

        A thread that hangs in the database is left behind (it keeps no process alive).
        """
        deadline_s = time.monotonic() + timeout_s
        with self._changed:
            self._closed = True
        stored = self.flush(timeout_s)
        with self._changed:
            self._stop = True
            self._outbox.close()
            self._changed.notify_all()
        self._thread.join(max(0.0, deadline_s - time.monotonic()))
        if not stored:
            log.warning("store: closed with %d outputs unstored; the journal has them", self.pending)
        return stored

    def progress(self) -> int | None:
        """The first segment of the journal that is not wholly stored; None when nothing was ever stored.

        Asks the database from the caller's thread; while it is away the note beside the journal says it.
        Raises StoreError when neither can be read.
        """
        try:
            with (
                store_errors(self._engine, "cannot read the journal's progress"),
                self._engine.connect() as connection,
            ):
                found = read_progress(connection, self._journal_id)
        except StoreAway:
            if self._prepared:
                raise
            return self._note.read()
        with self._changed:
            if self._progress is None:
                self._progress = found or Progress(0, 0)
        return None if found is None else found.segment

    # The thread.

    def _run(self) -> None:
        try:
            while (batch := self._next_batch()) is not None:
                outputs, segment, puts = batch
                if not self._store_for_sure(outputs, segment):
                    return
                self._note.write(segment)
                with self._changed:
                    self._pending -= len(outputs)
                    self._puts_stored += puts
                    self._stored_segment = segment
                    self._changed.notify_all()
        finally:
            with self._changed:
                self._ended = True
                self._outbox.close()
                if not self._stop:
                    self._last_error = "the store's thread died; its traceback is in the log"
                self._changed.notify_all()

    def _next_batch(self) -> tuple[list[Output], int, int] | None:
        """The next outputs, the segment they reach and how many puts they are; None: time to end."""
        with self._changed:
            self._changed.wait_for(lambda: self._outbox or self._stop)
            if not self._stop and self._busy:
                self._changed.wait_for(lambda: self._stop or self._hurry or self._outbox.full, LINGER_S)
                self._changed.wait_for(lambda: self._outbox or self._stop)
            if self._stop:
                return None
            taken = self._outbox.take()
            self._hurry = self._hurry and bool(self._outbox)
        if isinstance(taken, Path):
            assert self._spill is not None
            outputs, segment, puts = self._spill.read(taken)
            taken.unlink()
        else:
            outputs = [output for more, _ in taken for output in more]
            segment, puts = max(reached for _, reached in taken), len(taken)
        self._busy = len(outputs) > FEW_OUTPUTS
        return outputs, segment, puts

    def _store_for_sure(self, outputs: Sequence[Output], segment: int) -> bool:
        """Try until it works; False when told to stop before."""
        delay_s = RETRY_FIRST_S
        failed_at_s: float | None = None
        while True:
            try:
                if not self._sure:
                    self._make_sure()
                refused = self._store(self._not_deleted(outputs), segment)
            except CameBackWithout:
                self._sure = False
                continue
            except (SQLAlchemyError, StoreError, OSError) as error:
                self._sure = False
                if failed_at_s is None:
                    failed_at_s = time.monotonic()
                    log.warning(
                        "store: cannot write (%s); keeping everything and trying again", reason(error)
                    )
                with self._changed:
                    self._last_error = reason(error)
                    self._changed.wait_for(lambda: self._stop or self._hurry, delay_s)
                    self._hurry = False
                    if self._stop:
                        return False
                delay_s = min(2 * delay_s, RETRY_MOST_S)
                continue
            if failed_at_s is not None:
                log.warning("store: writing again after %.1f s", time.monotonic() - failed_at_s)
            _report(refused)
            with self._changed:
                self._last_error = None
            return True

    def _make_sure(self) -> None:
        """The database has its tables, and all that it took before; else it gets that again."""
        if not self._prepared:
            migrate(self._engine)
        with self._engine.connect() as connection:
            found = read_progress(connection, self._journal_id) or Progress(0, 0)
            self._deleted = {what: deleted_before_us(connection, what) for what in ("requests", "books")}
        expected = self._progress or Progress(self._note.read() or 0, 0)
        if found.segment < expected.segment or found.outputs < expected.outputs:
            had, has = tuple(expected), tuple(found)
            log.warning("store: the database has (segment, outputs) %s of the %s that it had", has, had)
            self._owed = found.segment if self._owed is None else min(found.segment, self._owed)
        self._progress = found
        if self._owed is not None:
            self._give_again(self._owed)
            self._owed = None
        self._prepared = self._sure = True

    def _not_deleted(self, outputs: Sequence[Output]) -> Sequence[Output]:
        """Without what is older than all that is kept: its sums may have it already.

        Such a thing comes only from a journal that was silent for weeks, as nothing is deleted before.
        """
        kept = [o for o in outputs if happened_us(o) >= self._deleted[_lies_with(o)]]
        if len(kept) < len(outputs):
            lost = len(outputs) - len(kept)
            log.warning("store: left out %d outputs that are older than what is kept", lost)
        return kept

    def _give_again(self, segment: int) -> None:
        """All outputs from the segment on; those that are there are left alone."""
        if self._again is None:
            log.error("store: a restart makes again what is missing")
            return
        batch: list[Output] = []
        made = 0
        for reached, outputs in self._again(segment or None):
            batch += outputs
            if len(batch) >= PAGE_OUTPUTS:
                _report(self._store(self._not_deleted(batch), reached))
                made, batch = made + len(batch), []
        _report(self._store(self._not_deleted(batch), None))
        log.warning("store: %d outputs made again from the journal", made + len(batch))

    def _store(self, outputs: Sequence[Output], segment: int | None) -> list[tuple[Output, str]]:
        """Store all of it and return the rows that can never be stored, found by halving the batch."""
        try:
            try:
                self._transact(outputs, segment, anew=True)
            except AlreadyThereError:  # as after a restart
                self._transact(outputs, segment, anew=False)
        except (SQLAlchemyError, OverflowError, ValueError) as error:
            if not _is_refusal(error) or not outputs:
                raise
            if len(outputs) == 1:
                return [
                    (outputs[0], reason(error)),
                    *(self._store((), segment) if segment is not None else ()),
                ]
            half = len(outputs) // 2
            # Progress moves with the last piece only: until then not all of the batch is stored.
            return self._store(outputs[:half], None) + self._store(outputs[half:], segment)
        return []

    def _transact(self, outputs: Sequence[Output], segment: int | None, *, anew: bool) -> None:
        before = self._progress or Progress(0, 0)
        moved = Progress(max(before.segment, segment or 0), before.outputs + len(outputs))
        # What later segments tell is not much older than the newest of what the earlier ones told.
        needed_us = self._newest_us if moved.segment > before.segment else None
        with writing(self._engine) as connection, connection.begin():
            write(connection, outputs, anew=anew)
            found = move_progress(connection, self._journal_id, segment, len(outputs), needed_us)
            if found.segment < moved.segment or found.outputs < moved.outputs:
                raise CameBackWithout  # on a connection that the pool made anew without anybody noticing
        self._progress = found
        newest_us = max(map(happened_us, outputs), default=0)
        self._newest_us = max(newest_us, self._newest_us or 0) or None


def _report(refused: Iterable[tuple[Output, str]]) -> None:
    for output, why in refused:
        log.error("store: left out, as the database can never take it (%s): %r", why, output)


def _lies_with(output: Output) -> Literal["requests", "books"]:
    """What is deleted together with it."""
    return "requests" if isinstance(output, RequestRecord | Correction) else "books"


def _is_refusal(error: Exception) -> bool:
    """Whether a row is at fault and not the database (a number beyond 64 bits, say): no new try helps."""
    if isinstance(error, DBAPIError):
        return isinstance(error, DataError | IntegrityError)
    return isinstance(error, StatementError | OverflowError | ValueError)
