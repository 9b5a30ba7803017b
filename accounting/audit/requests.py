"""Each record for itself: its sums, its states, its times; and each correction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, get_args

from accounting.audit.report import Report
from accounting.events import MeterMethod, Status
from accounting.store.audit_queries import Snapshot

STATUSES, METERS = get_args(Status), get_args(MeterMethod)


def audit_requests(store: Snapshot, report: Report, advance: Callable[[int], None]) -> None:
    before: str | None = None
    for page in store.requests():
        for row, shares in page:
            if row.uid == before:
                report.add("request-duplicate", f"request {row.uid}", "is there more than once")
            else:
                _check(row, shares, report)
            before = row.uid
            report.requests += 1
            report.shares += len(shares)
        advance(len(page))
    for uid, gpu in store.orphans():
        report.add("share-orphan", f"request {uid}", f"is not there, but has a share of {gpu}")


def audit_usage(store: Snapshot, report: Report) -> None:
    """The sums of each hour whose requests are all kept."""
    for hour_us in store.hours():
        if hour_us < report.deleted_before_us["requests"]:
            return
        kept, summed = store.usage(hour_us)
        if kept != summed:
            what = f"{len(kept)} sums are not those of the requests, which make {len(summed)}"
            report.add("sums", f"usage, hour at {hour_us}", what)


def audit_corrections(store: Snapshot, report: Report) -> None:
    for page in store.corrections():
        for row, shares, now in page:
            _check_correction(row, shares, now, report)
        report.corrections += len(page)
    for uid in store.orphaned_corrections():
        report.add("correction-orphan", f"correction of request {uid}", "what it belongs to is not there")


def _check_correction(row: Any, shares: Sequence[Any], now: Sequence[Any], report: Report) -> None:
    where = f"correction of request {row.uid}"
    prefill, decode = sum(s.prefill_uj for s in shares), sum(s.decode_uj for s in shares)
    if (row.prefill_uj, row.decode_uj) != (prefill, decode):
        what = f"prefill {row.prefill_uj}, decode {row.decode_uj} uJ; its shares sum to {prefill}, {decode}"
        report.add("correction-sum", where, what)
    charged = {share.gpu: share for share in now}
    for share in shares:
        has = charged.get(share.gpu)
        if has is None:
            report.add("correction-sum", where, f"is of {share.gpu}, of which the request has no share")
        elif min(has.prefill_uj - share.prefill_uj, has.decode_uj - share.decode_uj) < 0:
            report.add("correction-sum", where, f"without it the share of {share.gpu} would be negative")


def _check(row: Any, shares: Sequence[Any], report: Report) -> None:
    where = f"request {row.uid}"
    prefill, decode = sum(s.prefill_uj for s in shares), sum(s.decode_uj for s in shares)
    parts = (row.energy_uj, row.prefill_uj, row.decode_uj)
    if None in parts:
        if parts != (None, None, None):
            report.add("request-sum", where, f"energy, prefill, decode are {parts}: partly null")
        elif prefill or decode:
            report.add("request-sum", where, f"energy is null, its shares sum to {prefill + decode} uJ")
    elif row.energy_uj != row.prefill_uj + row.decode_uj:
        what = f"energy {row.energy_uj} uJ, prefill {row.prefill_uj} + decode {row.decode_uj}"
        report.add("request-sum", where, what)
    elif (row.prefill_uj, row.decode_uj) != (prefill, decode):
        what = f"prefill {row.prefill_uj}, decode {row.decode_uj} uJ; its shares sum to {prefill}, {decode}"
        report.add("request-sum", where, what)
    figures = [row.prefill_uj, row.decode_uj, row.dynamic_uj, row.uncertainty_uj, row.unmeasured_us]
    figures += [row.host_uj, row.host_unmeasured_us]
    figures += [uj for share in shares for uj in (share.prefill_uj, share.decode_uj)]
    if any(figure is not None and figure < 0 for figure in figures):
        report.add("request-range", where, "has a negative energy or time")
    if (row.host_uj is None) != (row.host_method is None):
        report.add("request-state", where, f"has host energy {row.host_uj}, read by {row.host_method!r}")
    if row.finished_us < row.started_us:
        report.add("request-range", where, f"ends {row.started_us - row.finished_us} us before it starts")
    if row.state != "final":
        report.add("request-state", where, f"is {row.state!r}, not final")
    for name, known in (("status", STATUSES), ("meter", METERS)):
        if getattr(row, name) not in known:
            report.add("request-state", where, f"has the {name} {getattr(row, name)!r}")
