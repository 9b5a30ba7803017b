"""The ledger's picture of a run: a journal heard again, and each interval's work as the ledger took it.

Nothing is changed: the ledger settles as always, and what `work_of` told it is written down on the way.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from accounting.final import final
from accounting.journal import Segment, segment_paths
from accounting.ledger import Ledger, settle
from accounting.ledger.features import Work, work_of
from accounting.ledger.flights import Flights
from accounting.ledger.history import History, Kept
from accounting.ledger.model import FEATURES
from accounting.ledger.state import BackendState
from accounting.records import Output, RequestRecord


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
    """The work that the work model learns from, by feature. Late news are in it, also those that came when
    the model had learnt already."""

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
    done: list[Kept] = []
    outputs: list[Output] = []
    drop = History.drop

    def noted(history: History, begins_us: NDArray[np.int64], ends_us: NDArray[np.int64]) -> list[Kept]:
        dropped = drop(history, begins_us, ends_us)
        done.extend(dropped)
        return dropped

    with patch.object(settle, "work_of", seen._note), patch.object(History, "drop", noted):
        for path in paths:
            for event in Segment(path).events():
                outputs += ledger.hear(event)
    if ledger.open_requests:
        raise RuntimeError(f"{ledger.open_requests} requests are not settled: the journal ends too early")
    seen.records = [output for output in final(outputs) if isinstance(output, RequestRecord)]
    for history in ledger.state.histories.values():
        done += History.of(history).kept
    sums = np.sum([kept.works[0].sums() for kept in done], axis=0)  # of the one backend
    seen.learnt = dict(zip(FEATURES, sums.tolist(), strict=True))
    return seen
