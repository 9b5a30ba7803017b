"""Outputs on their way to the database, in order: pages on the disk first, memory behind them.

Memory holds some MEMORY_OUTPUTS (1 kB each). What is more goes to the disk in a thread of its own, as the
writer may be hanging in the database.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from pathlib import Path

from accounting.store.spill import Put, Spill

log = logging.getLogger(__name__)

MEMORY_OUTPUTS = 20_000
PAGE_OUTPUTS = 2_000
RETRY_S = 5.0
"""Between two tries to write to a disk that refuses; until one works, memory holds everything."""


class Outbox:
    """Its methods are called with `changed` held, which is notified of every change."""

    def __init__(self, changed: threading.Condition, spill: Spill | None) -> None:
        self._changed, self._spill = changed, spill
        self._queue: deque[Put] = deque()
        self._pages: deque[Path] = deque()
        self._moving = False  # what comes first is on its way to a page
        self._closed = False
        self._thread: threading.Thread | None = None
        self.in_memory = 0
        """Outputs in memory."""

    def __bool__(self) -> bool:
        """Whether there is something to take now."""
        return bool(self._pages) or (bool(self._queue) and not self._moving)

    @property
    def full(self) -> bool:
        """Whether as much waits as one transaction takes."""
        return bool(self._pages) or self.in_memory >= PAGE_OUTPUTS

    def add(self, put: Put) -> None:
        self._queue.append(put)
        self.in_memory += len(put[0])
        if self._spill is not None and self._thread is None and self.in_memory > MEMORY_OUTPUTS:
            self._thread = threading.Thread(target=self._run, args=(self._spill,), name="store-spill")
            self._thread.daemon = True
            self._thread.start()

    def take(self) -> Path | list[Put]:
        """The first page, or the first puts in memory until they hold PAGE_OUTPUTS."""
        return self._pages.popleft() if self._pages else self._pop()

    def close(self) -> None:
        self._closed = True

    def _pop(self) -> list[Put]:
        puts: list[Put] = []
        taken = 0
        while self._queue and taken < PAGE_OUTPUTS:
            puts.append(self._queue.popleft())
            taken += len(puts[-1][0])
        self.in_memory -= taken
        return puts

    def _run(self, spill: Spill) -> None:
        refused = False
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self.in_memory > MEMORY_OUTPUTS)
                if self._closed:
                    return
                puts, self._moving = self._pop(), True
            page: Path | None = None
            try:
                page = spill.write(puts)
            except OSError as error:
                if not refused:
                    log.error("store: no room on the disk for what waits (%s): memory grows", error)
            refused = page is None
            with self._changed:
                if page is not None:
                    self._pages.append(page)
                else:
                    self._queue.extendleft(reversed(puts))
                    self.in_memory += sum(len(outputs) for outputs, _ in puts)
                self._moving = False
                self._changed.notify_all()
                if refused:
                    self._changed.wait_for(lambda: self._closed, RETRY_S)
