"""Writes what the ledger concludes to the database, in a thread of its own.

Outputs queue in memory and go to the tables in batches, each with the journal's progress in one transaction.
A row that is already there is left alone, so an output may come twice. A database that is away, locked or
full is tried again for ever; meanwhile the queue grows by about 1 kB per output, and what a dying process
takes with it the journal still has.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence

from sqlalchemy import Engine, select
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, SQLAlchemyError, StatementError

from accounting.records import Output
from accounting.store.engine import reason, store_errors, writing
from accounting.store.schema import JournalProgress, stored_text
from accounting.store.statements import AlreadyThereError, move_progress, write

log = logging.getLogger(__name__)

FEW_OUTPUTS = 20
LINGER_S = 0.2
"""A commit costs as much as many rows: after a batch of more than a few the next one waits for others."""

BATCH_OUTPUTS = 2_000
"""A transaction takes whole puts until it holds this many outputs: short enough to let other writers in."""

RETRY_FIRST_S = 0.1
RETRY_MOST_S = 10.0
"""The wait after a failure doubles from the first to the most."""


class StoreWriter:
    """Stores outputs exactly once. `put` never blocks; everything may be called from any thread."""

    def __init__(self, engine: Engine, journal_id: str) -> None:
        self._engine = engine
        self._journal_id = journal_id
        self._changed = threading.Condition()
        self._queue: deque[tuple[Sequence[Output], int]] = deque()
        self._puts = 0
        self._puts_stored = 0
        self._pending = 0
        self._last_error: str | None = None
        self._stored_segment: int | None = None
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
            self._queue.append((tuple(outputs), segment))
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
            self._changed.notify_all()
        self._thread.join(max(0.0, deadline_s - time.monotonic()))
        if not stored:
            log.warning("store: closed with %d outputs unstored; the journal has them", self.pending)
        return stored

    def progress(self) -> int | None:
        """The first segment of the journal that is not wholly stored; None when nothing was ever stored.

        Asks the database from the caller's thread. Raises StoreError when it cannot be read.
        """
        query = select(JournalProgress.segment).where(
            JournalProgress.journal == stored_text(self._journal_id)
        )
        with (
            store_errors(self._engine, "cannot read the journal's progress"),
            self._engine.connect() as connection,
        ):
            return connection.execute(query).scalar_one_or_none()

    # The thread.

    def _run(self) -> None:
        try:
            while (batch := self._next_batch()) is not None:
                outputs, segment, puts = batch
                if not self._store_for_sure(outputs, segment):
                    return
                with self._changed:
                    self._pending -= len(outputs)
                    self._puts_stored += puts
                    self._stored_segment = segment
                    self._changed.notify_all()
        finally:
            with self._changed:
                self._ended = True
                if not self._stop:
                    self._last_error = "the store's thread died; its traceback is in the log"
                self._changed.notify_all()

    def _next_batch(self) -> tuple[list[Output], int, int] | None:
        """The next outputs, the segment they reach and how many puts they are; None: time to end."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._stop)
            if not self._stop and self._busy:
                self._changed.wait_for(self._worth_a_commit, LINGER_S)
            if self._stop:
                return None
            outputs: list[Output] = []
            segment = puts = 0
            while self._queue and len(outputs) < BATCH_OUTPUTS:
                more, reached = self._queue.popleft()
                outputs += more
                segment = max(segment, reached)
                puts += 1
            self._hurry = self._hurry and bool(self._queue)
            self._busy = len(outputs) > FEW_OUTPUTS
            return outputs, segment, puts

    def _worth_a_commit(self) -> bool:
        return self._stop or self._hurry or sum(len(more) for more, _ in self._queue) >= BATCH_OUTPUTS

    def _store_for_sure(self, outputs: Sequence[Output], segment: int) -> bool:
        """Try until it works; False when told to stop before."""
        delay_s = RETRY_FIRST_S
        failed_at_s: float | None = None
        while True:
            try:
                refused = self._store(outputs, segment)
            except (SQLAlchemyError, OSError) as error:
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
            for output, why in refused:
                log.error("store: left out, as the database can never take it (%s): %r", why, output)
            with self._changed:
                self._last_error = None
            return True

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
        with writing(self._engine) as connection, connection.begin():
            write(connection, outputs, anew=anew)
            if segment is not None:
                move_progress(connection, self._journal_id, segment)


def _is_refusal(error: Exception) -> bool:
    """Whether a row is at fault and not the database (a number beyond 64 bits, say): no new try helps."""
    if isinstance(error, DBAPIError):
        return isinstance(error, DataError | IntegrityError)
    return isinstance(error, StatementError | OverflowError | ValueError)
