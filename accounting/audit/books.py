"""The books of one GPU or host, interval by interval, beside the requests that were charged in them.

Where an interval had no request, all that were charged before it have ended, and what they got is what the
books gave: their sums are compared there. Corrections still move energy between requests until nothing more
can be told of any, LATE_US after the last has ended: so the sums are compared when all was quiet for so long.
What came after the last such time is left to the comparison with the journal. So are the sums where there are
several hosts: a record has their sum only.

Where rows were deleted for their age the books begin with requests half told, and old requests are not there:
sums are compared from the first quiet time on of which both are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal

from accounting.audit.report import EXAMPLES, Gap, GpuSums, Report
from accounting.ledger.intervals import INTERVAL_US
from accounting.ledger.settle import LATE_US
from accounting.records import boundary_of
from accounting.store.audit_queries import Charge, Snapshot
from accounting.store.sums import HOUR_US

RESTART_US = 2_000_000
"""No service stops and starts again in less."""

NEVER_US = 1 << 63

SETTLED_US = LATE_US + 2 * INTERVAL_US
"""After so much time without requests there is no correction to come: one interval may hold both the last end
and some quiet, and corrections are told as the next one is settled."""


def audit_books(store: Snapshot, report: Report, advance: Callable[[int], None]) -> None:
    alone = len(store.journals()) < 2
    deleted = report.deleted_before_us
    devices = store.gpus()
    hosts = [device for device in devices if boundary_of(device) == "host"]
    for gpu in devices:
        if gpu in hosts:
            walk: _Walk = _HostWalk(gpu, store.host_charges() if len(hosts) == 1 else None, report, alone)
        else:
            walk = _Walk(gpu, store.charges(gpu), report, alone)
        sums = _HourSums(gpu, store.book_hours(gpu, deleted["books"]), report)
        for done, row in enumerate(store.books(gpu), start=1):
            walk.interval(row)
            sums.add(row)
            if done % 1000 == 0:
                advance(1000)
        walk.end()
        sums.end()
        advance(walk.sums.intervals % 1000)
        report.gpus.append(walk.sums)
        report.intervals += walk.sums.intervals


class _Walk:
    """Goes along one GPU's intervals; holds the requests in flight at its present place."""

    def __init__(self, gpu: str, charges: Iterator[Charge], report: Report, alone: bool) -> None:
        self.sums = GpuSums(gpu=gpu)
        self._charges, self._report, self._alone = charges, report, alone
        self._next = next(charges, None)
        self._open: list[Charge] = []
        self._unpaid: list[Charge] = []
        """Those in flight without energy."""
        self._until_us: int | None = None
        """End of the last interval."""
        self._last_t0_us: int | None = None
        self._owed_uj = 0
        """What the books gave to requests since they were last equal, without what the requests got."""
        self._quiet_us = 0
        """Time without requests up to here."""
        self._deleted = report.deleted_before_us
        self._blind = False
        """Whether something was deleted of what is to be compared next."""

    def interval(self, row: Any) -> None:
        where = f"{self.sums.gpu} at {row.t0_us}"
        self._check(row, where)
        if row.t0_us == self._last_t0_us:
            self._report.add("book-duplicate", where, "is there more than once")
            self.sums.intervals += 1
            return
        if self._until_us is not None and row.t0_us < self._until_us:
            what = f"begins {self._until_us - row.t0_us} us before the end of the interval before"
            self._report.add("book-overlap", where, what)
        if self._until_us is None:
            self._start(row.t0_us)
        elif row.t0_us > self._until_us:
            self._gap(self._until_us, row.t0_us)
        if row.requests:
            self._compare(f"before {row.t0_us}")
            self._quiet_us = 0
        self._take(row.t1_us)
        self._blind = self._blind or row.t0_us < self._deleted["requests"]
        self._nulls(row, where)
        self._add(row)
        self._owed_uj += row.requests_uj
        if not row.requests:
            # Where one is charged all the same it is settled with others: the sums may differ until its end.
            flying = any(c.energy_uj and c.finished_us > row.t0_us for c in self._open)
            self._quiet_us = 0 if flying else self._quiet_us + row.t1_us - row.t0_us
        self._open = [charge for charge in self._open if charge.finished_us >= row.t1_us]
        self._last_t0_us, self._until_us = row.t0_us, max(row.t1_us, self._until_us or row.t1_us)

    def end(self) -> None:
        """No more intervals."""
        self._compare("at the end")
        self._take(NEVER_US)
        for charge in self._open:
            if self._until_us is None:
                if charge.finished_us >= self._deleted["books"]:
                    self._outside(charge, "of which there are none")
            elif charge.finished_us > self._until_us:
                self._outside(charge, "after them")

    def _check(self, row: Any, where: str) -> None:
        parts = row.requests_uj + row.idle_uj + row.unobserved_uj + row.unmeasured_uj
        if (row.measured_uj or 0) != parts:
            what = f"measured {row.measured_uj} uJ, its parts sum to {parts}"
            self._report.add("book-unbalanced", where, what)
        length = row.t1_us - row.t0_us
        figures = (row.requests_uj, row.idle_uj, row.unobserved_uj, row.unmeasured_uj, row.measured_uj or 0)
        if min(*figures, row.requests) < 0:
            self._report.add("book-range", where, "has a negative part")
        if length <= 0:
            self._report.add("book-range", where, f"is {length} us long")
        elif not 0 <= row.covered_us <= length:
            self._report.add("book-range", where, f"covers {row.covered_us} us of {length}")
        elif row.covered_us and row.measured_uj is None:
            self._report.add("book-range", where, f"covers {row.covered_us} us and has measured nothing")

    def _add(self, row: Any) -> None:
        sums = self.sums
        sums.intervals += 1
        sums.t0_us = row.t0_us if sums.t0_us is None else sums.t0_us
        sums.t1_us = max(row.t1_us, sums.t1_us or row.t1_us)
        sums.covered_us += row.covered_us
        sums.not_covered_us += row.t1_us - row.t0_us - row.covered_us
        if row.measured_uj is not None:
            sums.measured_uj = (sums.measured_uj or 0) + row.measured_uj
        sums.requests_uj += row.requests_uj
        sums.idle_uj += row.idle_uj
        sums.unobserved_uj += row.unobserved_uj
        sums.unmeasured_uj += row.unmeasured_uj

    def _take(self, before_us: int) -> None:
        """Take up the requests that start before this time."""
        while self._next is not None and self._next.started_us < before_us:
            charge, self._next = self._next, next(self._charges, None)
            if charge.energy_uj is None:
                self._unpaid.append(charge)
                continue
            self._open.append(charge)
            self._owed_uj -= charge.energy_uj
            self.sums.shares_uj += charge.energy_uj

    def _start(self, t_us: int) -> None:
        self._take(t_us)
        for charge in self._open:
            if charge.started_us >= self._deleted["books"]:
                self._outside(charge, "before them")
        self._open = [charge for charge in self._open if charge.finished_us >= t_us]
        self._blind = self._deleted["books"] > 0
        self._owed_uj = 0

    def _nulls(self, row: Any, where: str) -> None:
        left = []
        for charge in self._unpaid:
            overlaps = charge.started_us < row.t1_us and charge.finished_us > row.t0_us
            if overlaps and row.covered_us > 0:
                what = f"has no energy, but {where} measured {row.covered_us} us of its time"
                self._report.add("request-null", f"request {charge.uid}", what)
            elif charge.finished_us >= row.t1_us:
                left.append(charge)
        self._unpaid = left

    def _compare(self, when: str) -> None:
        """The sums must be equal once all has been quiet."""
        if self._quiet_us < SETTLED_US:
            return
        if self._owed_uj and not self._blind:
            more = "more" if self._owed_uj > 0 else "less"
            what = f"the books gave requests {abs(self._owed_uj)} uJ {more} than their shares sum to"
            self._report.add("gpu-sum", f"{self.sums.gpu} {when}", what)
        self._owed_uj, self._blind = 0, False

    def _outside(self, charge: Charge, how: str) -> None:
        what = f"has energy of {self.sums.gpu}, but time outside the GPU's books, {how}"
        self._report.add("request-outside", f"request {charge.uid}", what)

    def _gap(self, t0_us: int, t1_us: int) -> None:
        self._compare(f"before {t0_us}")
        self._take(t1_us)
        self._owed_uj = self._quiet_us = 0
        crossing = [c for c in self._open if c.finished_us > t0_us]
        for charge in crossing:
            self._outside(charge, f"between {t0_us} and {t1_us}")
        why = "another journal was begun"
        judgement: Literal["service not running", "suspicious"] = "suspicious"
        if crossing:
            why = f"{len(crossing)} requests with energy of this GPU have time in it"
        elif t1_us - t0_us < RESTART_US:
            why = "it is shorter than any restart"
        elif self._alone:
            why = "one journal wrote all of this, and a restart goes on where its journal ends"
        else:
            judgement = "service not running"
        seconds = (t1_us - t0_us) / 1e6
        self.sums.gaps += 1
        self.sums.gaps_us += t1_us - t0_us
        if self.sums.gaps <= EXAMPLES:
            self._report.gaps.append(Gap(self.sums.gpu, t0_us, t1_us, seconds, judgement, why))
        if judgement == "suspicious":
            self._report.add("book-gap", f"{self.sums.gpu} at {t0_us}", f"{seconds:.1f} s, {why}")


class _HourSums:
    """The entries of a device summed by hour, beside the sums that the store keeps."""

    def __init__(self, gpu: str, kept: dict[int, dict[str, int]], report: Report) -> None:
        self._gpu, self._kept, self._report = gpu, kept, report
        self._hour_us: int | None = None
        self._intervals = self._measured_uj = self._requests_uj = self._idle_uj = 0

    def add(self, row: Any) -> None:
        hour_us = row.t0_us // HOUR_US * HOUR_US
        if hour_us != self._hour_us:
            self._compare()
            self._hour_us = hour_us
            self._intervals = self._measured_uj = self._requests_uj = self._idle_uj = 0
        self._intervals += 1
        self._measured_uj += row.measured_uj or 0
        self._requests_uj += row.requests_uj
        self._idle_uj += row.idle_uj

    def end(self) -> None:
        self._compare()
        for hour_us in self._kept:
            self._report.add("sums", f"{self._gpu}, hour at {hour_us}", "there is a sum and no entry")

    def _compare(self) -> None:
        # An hour that began before all that is kept may have some of its entries left: nothing can be said.
        if self._hour_us is None or self._hour_us < self._report.deleted_before_us["books"]:
            return
        kept = self._kept.pop(self._hour_us, {})
        said = [kept.get(name, 0) for name in ("intervals", "measured_uj", "requests_uj", "idle_uj")]
        are = [self._intervals, self._measured_uj, self._requests_uj, self._idle_uj]
        if said != are:
            what = f"(intervals, measured, requests, idle) are {are}, their sums {said}"
            self._report.add("sums", f"{self._gpu}, hour at {self._hour_us}", what)


class _HostWalk(_Walk):
    """The same for a host, without `charges` for its own books only.

    A host's meter may come up, and go for good, while requests are in flight: they have none of its energy
    then, and say so.
    """

    def __init__(self, host: str, charges: Iterator[Charge] | None, report: Report, alone: bool) -> None:
        super().__init__(host, iter(()) if charges is None else charges, report, alone)
        self._compares = charges is not None

    def _start(self, t_us: int) -> None:
        self._take(t_us)

    def _gap(self, t0_us: int, t1_us: int) -> None:
        self._take(t1_us)
        self.sums.gaps += 1
        self.sums.gaps_us += t1_us - t0_us

    def _compare(self, when: str) -> None:
        if self._compares:
            super()._compare(when)

    def _outside(self, charge: Charge, how: str) -> None:
        """That is no fault here."""
