"""What became known too late: energy moved between open requests, so that sums stay as they are.

A prompt's cached tokens, and all of an answer that was not streamed, are told only at the end, when most of
the time is settled and charged by guess. Then what the request was charged is compared with what the work
model says of the work it really did in settled time, and the difference is moved to (or from) the requests
that are open beside it, in proportion to what they were charged. Per GPU and in integers: no book changes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from accounting.ledger.apportion import apportion
from accounting.ledger.features import prompt_joules
from accounting.ledger.flights import Flights
from accounting.ledger.settle import Group, correct_lessons

MOST_TAKEN = 0.5
"""No request gives more than this part of what it was charged."""

MOST_TIMES = 10.0

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def true_up_prompt(flights: Flights, row: int, group: Group) -> None:
    """The prompt's computed tokens turned out to differ from those assumed when the prefill was booked."""
    assumed, actual = float(flights.assumed[row]), float(flights.uncached[row])
    if assumed <= 0 or assumed == actual:
        return
    column, prompt = int(flights.column[row]), float(flights.prompt[row])
    correct_lessons(
        group,
        column,
        int(flights.pre0[row]),
        int(flights.pre1[row]),
        actual - assumed,
        actual * (prompt - actual / 2) - assumed * (max(prompt, assumed) - assumed / 2),
    )
    prices = group.prices(column)
    was = prompt_joules(prices, assumed, max(prompt, assumed))
    if was <= 0:
        return
    keep = min(prompt_joules(prices, actual, prompt) / was, MOST_TIMES)
    for place in range(len(flights.teller(row).gpus)):
        charged = int(flights.prefill_uj[row, place])
        moved = move(flights, row, place, group, charged - round(charged * keep))
        _settle_phases(flights, row, place, charged - moved, int(flights.decode_uj[row, place]))


def true_up_unstreamed(flights: Flights, row: int, group: Group) -> None:
    """An answer that was not streamed has ended: its work in settled time is known only now.

    Until here it was charged as if it decoded all along, also while it was queued or its prompt computed.
    """
    column, settled = int(flights.column[row]), group.settled_us
    per_token = group.backends[column].step_joules
    told = flights.teller(row)
    tokens = float((told.usage.completion_tokens if told.usage is not None else None) or 0)
    if not group.model.windows or per_token is None or settled <= int(flights.start[row]):
        return
    prices, prompt = group.prices(column), float(flights.prompt[row])
    first, end = int(flights.first[row]), int(flights.end[row])
    decoded = tokens * _part_before(first, end, settled)
    computed = float(flights.uncached[row]) * _part_before(
        int(flights.pre0[row]), int(flights.pre1[row]), settled
    )
    context = prompt + decoded / 2 / float(flights.seqs[row])
    prefill = prompt_joules(prices, computed, prompt)
    decode = decoded * (per_token + float(prices[4]) + float(prices[5]) * context)
    places = len(told.gpus)
    for place in range(places):
        covered = int(flights.covered_us[row, place])
        known = covered / max(covered + int(flights.uncovered_us[row, place]), 1)
        due = group.scale * known * 1e6 / places
        charged = int(flights.prefill_uj[row, place] + flights.decode_uj[row, place])
        left = charged - move(flights, row, place, group, charged - round((prefill + decode) * due))
        share = prefill / (prefill + decode) if prefill + decode > 0 else 0.0
        _settle_phases(flights, row, place, round(left * share), left - round(left * share))


def _part_before(begin_us: int, end_us: int, t_us: int) -> float:
    """Which part of [begin, end] lies before `t_us`."""
    if end_us <= begin_us:
        return 1.0 if end_us <= t_us else 0.0
    return min(max((t_us - begin_us) / (end_us - begin_us), 0.0), 1.0)


def _settle_phases(flights: Flights, row: int, place: int, prefill_uj: int, decode_uj: int) -> None:
    flights.prefill_uj[row, place], flights.decode_uj[row, place] = prefill_uj, decode_uj


def move(flights: Flights, row: int, place: int, group: Group, energy_uj: int) -> int:
    """Give `energy_uj` that a request was charged for one of its GPUs to the others open there.

    Negative: take it from them. Returns how much it was, as much as there is; the request's own columns are
    the caller's to set. Dynamic energy goes along in proportion.
    """
    rows, columns = _beside(flights, row, place, group)
    charged = flights.prefill_uj[rows, columns] + flights.decode_uj[rows, columns]
    held, own = int(charged.sum()), int(flights.prefill_uj[row, place] + flights.decode_uj[row, place])
    moved = min(energy_uj, own) if energy_uj >= 0 else -min(-energy_uj, int(held * MOST_TAKEN))
    if held <= 0 or not moved:
        return 0
    parts = apportion(abs(moved), charged.astype(np.float64))
    if moved > 0:
        dynamic = int(flights.dynamic_uj[row]) * moved // own
        flights.decode_uj[rows, columns] += parts
        flights.dynamic_uj[rows] += apportion(dynamic, charged.astype(np.float64))
        flights.dynamic_uj[row] -= dynamic
    else:
        gone = (flights.dynamic_uj[rows] * (parts / np.maximum(charged, 1))).astype(np.int64)
        from_decode = np.minimum(parts, flights.decode_uj[rows, columns])
        flights.decode_uj[rows, columns] -= from_decode
        flights.prefill_uj[rows, columns] -= parts - from_decode
        flights.dynamic_uj[rows] -= gone
        flights.dynamic_uj[row] += int(gone.sum())
    return moved


def _beside(flights: Flights, row: int, place: int, group: Group) -> tuple[Ints, Ints]:
    """The other open requests on the same GPU, and their columns for it."""
    gpu = flights.teller(row).gpus[place]
    of_backend = np.array([b.gpus.index(gpu) if gpu in b.gpus else -1 for b in group.backends], np.int64)
    n = flights.rows
    rows = np.flatnonzero((flights.group[:n] == group.number) & flights.works[:n])
    columns = of_backend[flights.column[rows]]
    keep = (columns >= 0) & (rows != row)
    rows = flights.in_order(rows[keep])
    return rows, of_backend[flights.column[rows]]
