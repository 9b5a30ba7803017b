"""Answers questions about a running joulegate: what is stored, and the minutes that are still open."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from sqlalchemy import Engine

from accounting.diagnosis.capacity import Capacity, Question, Unanswerable, capacity
from accounting.diagnosis.diagnose import Diagnosis, diagnose
from accounting.diagnosis.reading import WindowReader
from accounting.records import BackendFacts
from accounting.service import Accountant

ASK_TIMEOUT_S = 10.0


class Asking:
    """To be called in any thread but that of `loop`. Without an accountant only the store is asked.

    Methods raise StoreError: CannotAnswer where the question is at fault.
    """

    def __init__(
        self,
        engine: Engine,
        accountant: Accountant | None = None,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._reader, self._accountant, self._loop = WindowReader(engine), accountant, loop
        self._one = threading.Lock()

    def diagnosis(
        self,
        t0_us: int,
        t1_us: int,
        *,
        backend: str | None = None,
        model: str | None = None,
        tenant: str | None = None,
    ) -> Diagnosis:
        window = self._reader.window(
            t0_us, t1_us, backend=backend, model=model, tenant=tenant, live=self._live()
        )
        return diagnose(window)

    def capacity(
        self,
        t0_us: int,
        t1_us: int,
        question: Question,
        *,
        backend: str | None = None,
        model: str | None = None,
    ) -> Capacity:
        """Of one model: the only one that was served, or the one named. Raises Unanswerable.

        It is computed in a process of its own, one at a time: what this one relays shall not wait for it.
        """
        window = self._reader.window(t0_us, t1_us, backend=backend, model=model, live=self._live())
        spent = window.spent if window.asked is None else window.asked
        models = sorted({one.model for one in spent if one.model is not None})
        if model is None and len(models) > 1:
            raise Unanswerable(f"several models were served: name one of {', '.join(models)}")
        group = window.backends
        mix = self._reader.mix(window.t0_us, window.t1_us, [one.name for one in group], model)
        task = group, mix, question, model if model is not None or not models else models[0]
        if self._accountant is None:
            return capacity(*task)
        with self._one, ProcessPoolExecutor(1, mp_context=get_context("spawn")) as apart:
            return apart.submit(capacity, *task).result()

    def _live(self) -> Sequence[BackendFacts]:
        # The ledger belongs to the event loop's thread: ask there.
        if self._accountant is None or self._loop is None:
            return ()
        return asyncio.run_coroutine_threadsafe(self._ask(self._accountant), self._loop).result(ASK_TIMEOUT_S)

    async def _ask(self, accountant: Accountant) -> list[BackendFacts]:
        return accountant.ledger.facts()
