"""What an audit found: counts of everything, examples of the first of each kind."""

from __future__ import annotations

from typing import Literal

import msgspec

EXAMPLES = 20
"""Findings, and gaps, that are kept of each kind; the rest is counted."""

KINDS = {
    "book-unbalanced": "measured = requests + idle + unobserved + unmeasured, in every interval",
    "book-range": "no part of an interval is negative, none covers more than its length",
    "book-overlap": "no two intervals of a GPU overlap",
    "book-duplicate": "no interval is there twice",
    "book-gap": "time between intervals is time in which the service was not running",
    "request-sum": "energy = prefill + decode = the sum of the shares",
    "request-range": "no energy is negative, no request ends before it starts",
    "request-duplicate": "no request is there twice",
    "request-state": "every record is final; its status and meter are known ones",
    "request-outside": "every request lies within the books of its GPUs",
    "request-null": "energy is null only where its time was not measured",
    "share-orphan": "every share belongs to a request",
    "correction-sum": "a correction is the sum of its shares; no share was negative before it",
    "correction-orphan": "every correction belongs to a request",
    "gpu-sum": "the shares of a GPU sum to what its books gave to requests",
    "sums": "the sums by hour are those of the rows",
    "missing-in-store": "what the journal tells is in the store",
    "missing-in-journal": "what is in the store is told by the journal",
    "differs": "store and journal say the same",
}
"""What is checked, by the name of a finding: the rule that it breaks."""

JOURNAL_KINDS = ("missing-in-store", "missing-in-journal", "differs")


class Finding(msgspec.Struct):
    """One rule broken at one place."""

    kind: str
    where: str
    what: str


class Gap(msgspec.Struct):
    """Time of a GPU that no interval takes."""

    gpu: str
    t0_us: int
    t1_us: int
    seconds: float
    judgement: Literal["service not running", "suspicious"]
    why: str


class GpuSums(msgspec.Struct, kw_only=True):
    """The books of one GPU, summed. `shares_uj` is what its requests have. measured_uj is None if unknown."""

    gpu: str
    intervals: int = 0
    t0_us: int | None = None
    t1_us: int | None = None
    covered_us: int = 0
    not_covered_us: int = 0
    gaps: int = 0
    gaps_us: int = 0
    measured_uj: int | None = None
    requests_uj: int = 0
    idle_uj: int = 0
    unobserved_uj: int = 0
    unmeasured_uj: int = 0
    shares_uj: int = 0


class JournalSums(msgspec.Struct, kw_only=True):
    """What the journal told. `not_stored_yet` came after all that is stored, and `deleted` is older than all
    that is kept: neither is missing."""

    segments: int
    requests: int = 0
    corrections: int = 0
    intervals: int = 0
    not_stored_yet: int = 0
    deleted: int = 0


class Report(msgspec.Struct, kw_only=True):
    """The outcome. `found` counts every kind that was checked; `findings` are the first of each."""

    clean: bool = True
    requests: int = 0
    shares: int = 0
    corrections: int = 0
    intervals: int = 0
    gpus: list[GpuSums] = []
    gaps: list[Gap] = []
    journal: JournalSums | None = None
    deleted_before_us: dict[str, int] = {}
    """Rows of requests and books that are older were deleted for their age; 0: none were."""
    found: dict[str, int] = {}
    findings: list[Finding] = []

    def add(self, kind: str, where: str, what: str) -> None:
        self.clean = False
        self.found[kind] = self.found.get(kind, 0) + 1
        if self.found[kind] <= EXAMPLES:
            self.findings.append(Finding(kind, where, what))
