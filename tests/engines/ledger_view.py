"""The ledger's picture of a run: a journal heard again, and each interval's work as the ledger took it.

Nothing is changed: the ledger settles as always, and what `work_of` told it is written down on the way.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from accounting.journal import Segment, segment_paths
from accounting.ledger import Ledger, settle
from accounting.ledger.features import Work, work_of
from accounting.ledger.flights import Flights
from accounting.ledger.model import FEATURES, WorkModel
from accounting.ledger.priors import prior_joules
from accounting.ledger.state import BackendState, LedgerState
from accounting.records import RequestRecord


@dataclass(frozen=True, slots=True)
class Slice:
    """What was done in [t0_us, t1_us), as the ledger took it."""

    t0_us: int
    t1_us: int
    steps: float
    prompt_tokens: float
    decoded: float


@dataclass(slots=True)
class Booked:
    """One request as the ledger had it when it was settled last. Times in UTC microseconds, 0 for none.

    `charged_prompt` sums up the prompt tokens it was charged with, interval by interval, `charged_decode` the
    tokens after the first.
    """

    request_id: str
    streamed: bool
    sequences: int
    start_us: int
    first_us: int
    end_us: int
    prefill_from_us: int
    prefill_to_us: int
    uncached: float
    charged_prompt: float = 0.0
    charged_decode: float = 0.0


@dataclass
class LedgerView:
    slices: list[Slice] = field(default_factory=list)
    booked: dict[int, Booked] = field(default_factory=dict)
    """By handle."""
    records: list[RequestRecord] = field(default_factory=list)
    learnt: dict[str, float] = field(default_factory=dict)
    """The work that the work model learnt from or is about to, by feature: late news are in it."""

    def _note(
        self, flights: Flights, backend: BackendState, rows: NDArray[np.int64], t0_us: int, t1_us: int
    ) -> Work:
        work = work_of(flights, backend, rows, t0_us, t1_us)
        self.slices.append(
            Slice(t0_us, t1_us, work.steps, float(work.prompt.sum()), float(work.decoded.sum()))
        )
        for at, row in enumerate(rows.tolist()):
            self._note_request(flights, row, float(work.prompt[at]), float(work.decoded[at]))
        return work

    def _note_request(self, flights: Flights, row: int, prompt: float, decoded: float) -> None:
        handle = int(flights.handle[row])
        before = self.booked.get(handle)
        started = flights.teller(row).started
        self.booked[handle] = Booked(
            request_id=started.request_id,
            streamed=started.streamed,
            sequences=started.sequences,
            start_us=int(flights.start[row]),
            first_us=int(flights.first[row]),
            end_us=int(flights.end[row]),
            prefill_from_us=int(flights.pre0[row]),
            prefill_to_us=int(flights.pre1[row]),
            uncached=float(flights.uncached[row]),
            charged_prompt=prompt + (before.charged_prompt if before else 0.0),
            charged_decode=decoded + (before.charged_decode if before else 0.0),
        )

    def by_request_id(self) -> dict[str, Booked]:
        return {booked.request_id: booked for booked in self.booked.values()}


def view(journal: Path) -> LedgerView:
    """Hear a whole journal directory. Raises JournalError where it is none."""
    seen = LedgerView()
    paths = segment_paths(journal)
    ledger = Ledger(Segment(paths[0]).state)
    rows: list[NDArray[np.float64]] = []
    learn = WorkModel.learn

    def noted(model: WorkModel, row: NDArray[np.float64], energy_j: float, interval_s: float) -> None:
        rows.append(row)
        learn(model, row, energy_j, interval_s)

    with patch.object(settle, "work_of", seen._note), patch.object(WorkModel, "learn", noted):
        for path in paths:
            for event in Segment(path).events():
                seen.records += [out for out in ledger.hear(event) if isinstance(out, RequestRecord)]
    if ledger.open_requests:
        raise RuntimeError(f"{ledger.open_requests} requests are not settled: the journal ends too early")
    seen.learnt = _unscaled(ledger.state, rows)
    return seen


def _unscaled(state: LedgerState, learnt: list[NDArray[np.float64]]) -> dict[str, float]:
    """Sums over all lessons, those that still wait included, without the scale of the priors."""
    (backend,), (gpu,) = state.backends.values(), state.gpus.values()
    waiting = [np.array(lesson.x) for lessons in state.lessons.values() for lesson in lessons]
    total = np.sum([*learnt, *waiting], axis=0) / np.array(prior_joules(backend.model, gpu.device))
    return dict(zip(FEATURES, total.tolist(), strict=True))
