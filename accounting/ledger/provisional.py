"""The figure for a request whose last intervals are not settled yet: an estimate, and labelled so."""

from __future__ import annotations

from accounting.ledger import work
from accounting.ledger.rule import Activity, Rule, Weights
from accounting.ledger.state import GpuState, LedgerState, OpenRequest
from accounting.records import RequestRecord

ESTIMATE_ERROR_PERCENT = 50
"""Assumed error of the estimated part."""


def add_estimate(
    record: RequestRecord, request: OpenRequest, state: LedgerState, rule: Rule, now_us: int
) -> None:
    """Add to `record` what the unsettled work should cost, at each GPU's recent price of work.

    Before any price is known, the GPU's present power is shared evenly by the requests in flight. Where a GPU
    gives neither, nothing is added, and energy_uj stays None if nothing else was measured.
    """
    added = [0, 0]
    known = False
    for name in request.gpus:
        gpu = state.gpus.get(name)
        if gpu is None:
            continue
        weights = _open_work(request, gpu, rule, now_us)
        if gpu.uj_per_work is not None:
            added[0] += round(weights.prefill * gpu.uj_per_work)
            added[1] += round(weights.decode * gpu.uj_per_work)
            known = True
        elif (power_uw := gpu.curve.recent_power_uw()) is not None:
            others = sum(1 for r in state.open.values() if name in r.gpus and r.finished_us is None)
            open_us = max(now_us - max(gpu.settled_us, request.started.t_us), 0)
            added[1 if request.first_us else 0] += power_uw * open_us // 1_000_000 // max(others, 1)
            known = True
    if request.status in ("client_error", "rejected"):
        added = [0, 0]  # nothing is charged when it is settled either
    if not known and record.energy_uj is None:
        return
    record.prefill_uj = (record.prefill_uj or 0) + added[0]
    record.decode_uj = (record.decode_uj or 0) + added[1]
    record.energy_uj = record.prefill_uj + record.decode_uj
    record.uncertainty_uj = (record.uncertainty_uj or 0) + sum(added) * ESTIMATE_ERROR_PERCENT // 100
    record.method = rule.name
    if record.meter == "none":
        record.meter = next((state.gpus[g].method for g in request.gpus if g in state.gpus), "none")


def _open_work(request: OpenRequest, gpu: GpuState, rule: Rule, now_us: int) -> Weights:
    k = work.number(gpu.settled_us)
    prefill = sum(n for j, n in request.prefill_bins.items() if j >= k)
    decode = sum(n for j, n in request.decode_bins.items() if j >= k)
    if not prefill and not decode:
        return Weights(0, 0)
    return rule.weigh([Activity(0, prefill, decode, max(now_us - gpu.settled_us, 0), True)])[0]
