"""What a request cost and how the books stand, wherever the figure is at the moment.

In flight or not settled yet: in the ledger, provisional. Just settled: in memory until the store surely has
it. Older: in the store. May be asked from any thread.
"""

from __future__ import annotations

import asyncio

from accounting.records import RequestRecord
from accounting.service import Accountant
from accounting.store.queries import Books, Cursor, Page, RequestFilter, StoreReader

ASK_TIMEOUT_S = 10.0


class Figures:
    def __init__(self, accountant: Accountant, reader: StoreReader, loop: asyncio.AbstractEventLoop) -> None:
        self._accountant, self._reader, self._loop = accountant, reader, loop

    def request(self, request_id: str) -> RequestRecord | None:
        """By joulegate's id or the x-request-id. None if nobody has it. Raises StoreError."""
        # The ledger belongs to the event loop's thread: ask there.
        asked = asyncio.run_coroutine_threadsafe(self._ask_ledger(request_id), self._loop)
        return asked.result(ASK_TIMEOUT_S) or self._reader.request(request_id)

    async def _ask_ledger(self, request_id: str) -> RequestRecord | None:
        return self._accountant.find(request_id)

    def requests(self, wanted: RequestFilter, limit: int, after: Cursor | None) -> Page:
        """Settled requests, newest first. Raises StoreError."""
        return self._reader.requests(wanted, limit, after)

    def books(self, t0_us: int | None, t1_us: int | None, gpu: str | None, bucket_us: int | None) -> Books:
        """Sums over the books of settled intervals. Raises StoreError."""
        return self._reader.books(t0_us, t1_us, gpu, bucket_us)
