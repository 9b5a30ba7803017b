"""The figure for a request whose last intervals are not settled yet: an estimate, and labelled so."""

from __future__ import annotations

from accounting.ledger import jobs
from accounting.ledger.flights import Flights
from accounting.ledger.group import Group
from accounting.ledger.intervals import RING, number
from accounting.ledger.state import GpuState
from accounting.records import RequestRecord

ESTIMATE_ERROR_PERCENT = 30
"""Assumed error of the estimated part."""


def add_estimate(record: RequestRecord, flights: Flights, row: int, group: Group, method: str) -> None:
    """Add to `record` what the unsettled work should cost: as the work model says, scaled as of late.

    Before the model has seen any energy, the GPUs' present power is shared evenly by the requests in flight.
    Where a GPU gives neither, nothing is added, and energy_uj stays None if nothing else was measured.
    Never more is added than the GPUs' power limits allow in that time.
    """
    column = int(flights.column[row])
    mine = group.gpus_of(column)
    if record.status in ("client_error", "rejected"):
        added = [0, 0]  # nothing is charged when it is settled either
    elif group.scale is not None and any(gpu.curve.knows_power for gpu in mine):
        prefill_j, decode_j = _open_work(record, flights, row, group, column)
        added = [round(prefill_j * group.scale * 1e6), round(decode_j * group.scale * 1e6)]
    else:
        powers = [power for gpu in mine if (power := gpu.curve.recent_power_uw()) is not None]
        if not powers:
            if record.energy_uj is None:
                return
            powers = [0]
        n = flights.rows
        others = int(((flights.group[:n] == group.number) & (flights.end[:n] == 0)).sum())
        since = max(group.settled_us, int(flights.start[row]))
        energy = sum(powers) * max(record.finished_us - since, 0) // 1_000_000 // max(others, 1)
        added = [0, energy] if flights.first[row] else [energy, 0]
    added = _possible(added, record, group, mine)
    record.prefill_uj = (record.prefill_uj or 0) + added[0]
    record.decode_uj = (record.decode_uj or 0) + added[1]
    record.energy_uj = record.prefill_uj + record.decode_uj
    record.uncertainty_uj = (record.uncertainty_uj or 0) + sum(added) * ESTIMATE_ERROR_PERCENT // 100
    record.method = method
    if record.meter == "none":
        record.meter = mine[0].method


def _possible(added: list[int], record: RequestRecord, group: Group, gpus: list[GpuState]) -> list[int]:
    """So much of it as these GPUs can draw while the request is open and not settled, in microjoules."""
    limits = [gpu.power_limit_mw for gpu in gpus]
    if None in limits:
        return added
    open_us = max(record.finished_us - max(group.settled_us, record.started_us), 0)
    most = sum(limit for limit in limits if limit is not None) * open_us // 1_000
    whole = sum(added)
    return added if whole <= most else [part * most // whole for part in added]


def _open_work(
    record: RequestRecord, flights: Flights, row: int, group: Group, column: int
) -> tuple[float, float]:
    """Joules that the work not settled yet should cost, for prefill and decode."""
    prices, backend = group.price_list(column), group.backends[column]
    if backend.jobs is not None:
        now_us = record.finished_us
        return jobs.open_joules(flights, backend.jobs, row, group.prices(column), group.settled_us, now_us)
    whole, settled = flights.whole(row), group.settled_us
    prompt, uncached, done, sequences = flights.parts(row)
    begin, end = whole.pre0, whole.pre1
    part = 1.0 if end >= settled and end <= begin else max(end - max(begin, settled), 0) / max(end - begin, 1)
    if not whole.first:
        part = 0.0
    computed = uncached * min(part, 1.0)
    pages = range(number(settled), min(number(record.finished_us) + 1, number(settled) + RING))
    tokens = sum([float(flights.tokens[page % RING, row]) for page in pages])
    first = min(tokens, 1.0) if whole.first >= settled else 0.0
    per_token = backend.step_joules
    if per_token is None:
        per_token = prices[0]
    context = prompt + (done + tokens / 2) / sequences
    prefill = prices[2] * computed + prices[3] * computed * (prompt - uncached / 2) + per_token * first
    decode = (tokens - first) * (per_token + prices[4] + prices[5] * context)
    return prefill, decode
