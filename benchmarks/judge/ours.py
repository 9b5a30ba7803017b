"""The method under test: joulegate's ledger, fed the events of a trace."""

from __future__ import annotations

from dataclasses import dataclass, field

from accounting.ledger import Ledger
from accounting.records import BookEntry, Correction, Output, RequestRecord, corrected
from benchmarks.traces.trace import Trace


@dataclass(slots=True)
class Settlement:
    """All that the ledger concluded. `records` by the number of the request."""

    records: dict[int, RequestRecord] = field(default_factory=dict)
    books: list[BookEntry] = field(default_factory=list)
    left_open: int = 0
    corrections: int = 0

    def take(self, outputs: list[Output]) -> None:
        for output in outputs:
            match output:
                case RequestRecord():
                    self.records[int(output.uid)] = output
                case Correction():
                    self.corrections += 1
                    number = int(output.uid)
                    self.records[number] = corrected(self.records[number], output)
                case BookEntry():
                    self.books.append(output)

    @property
    def balanced(self) -> bool:
        """Whether every entry balances and, per GPU, all requests together hold what the books gave them.

        In integer microjoules, exactly; and nothing may be left open.
        """
        booked: dict[str, int] = {}
        for entry in self.books:
            parts = entry.requests_uj + entry.idle_uj + entry.unobserved_uj + entry.unmeasured_uj
            if parts != (entry.measured_uj or 0):
                return False
            booked[entry.gpu] = booked.get(entry.gpu, 0) + entry.requests_uj
        held = dict.fromkeys(booked, 0)
        for record in self.records.values():
            whole = sum(share.prefill_uj + share.decode_uj for share in record.shares)
            if record.energy_uj is not None and record.energy_uj != whole:
                return False
            for share in record.shares:
                held[share.gpu] = held.get(share.gpu, 0) + share.prefill_uj + share.decode_uj
        return held == booked and not self.left_open


def settle(trace: Trace) -> Settlement:
    """Hear every event in order."""
    ledger, done = Ledger(), Settlement()
    for event in trace.events:
        done.take(ledger.hear(event))
    done.left_open = ledger.open_requests
    done.take(ledger.close())
    return done
