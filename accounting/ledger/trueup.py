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

Floats = NDArray[np.float64]


def true_up_prompt(flights: Flights, row: int, group: Group, prices: Floats) -> None:
    """The prompt's computed tokens turned out to differ from those assumed when the prefill was booked."""
    assumed, actual = float(flights.assumed[row]), float(flights.uncached[row])
    if assumed <= 0 or assumed == actual:
        return
    prompt = float(flights.prompt[row])
    correct_lessons(
        group,
        int(flights.column[row]),
        int(flights.pre0[row]),
        int(flights.pre1[row]),
        actual - assumed,
        actual * (prompt - actual / 2) - assumed * (max(prompt, assumed) - assumed / 2),
    )
    was = prompt_joules(prices, assumed, max(prompt, assumed))
    now = prompt_joules(prices, actual, prompt)
    if was > 0:
        keep = min(now / was, 10.0)
        gpus = len(flights.teller(row).gpus)
        for column in range(gpus):
            charged = int(flights.prefill_uj[row, column])
            move(flights, row, column, group, charged - round(charged * keep))


def move(flights: Flights, row: int, column: int, group: Group, energy_uj: int) -> int:
    """Move `energy_uj` of one GPU from a request's prefill to the others open on that GPU.

    Negative: from them to it. Moves as much as there is; returns how much.
    """
    gpu = flights.teller(row).gpus[column]
    n = flights.rows
    rows = np.flatnonzero((flights.group[:n] == group.number) & flights.works[:n])
    rows = flights.in_order(rows[rows != row])
    others = [(r, flights.teller(r).gpus.index(gpu)) for r in rows.tolist() if gpu in flights.teller(r).gpus]
    if not others:
        return 0
    rows, columns = (np.array(part, np.int64) for part in zip(*others, strict=True))
    charged = flights.prefill_uj[rows, columns] + flights.decode_uj[rows, columns]
    held = int(charged.sum())
    if held <= 0:
        return 0
    if energy_uj >= 0:
        moved = min(energy_uj, int(flights.prefill_uj[row, column]))
        flights.decode_uj[rows, columns] += apportion(moved, charged.astype(np.float64))
    else:
        moved = -min(-energy_uj, int(held * MOST_TAKEN))
        parts = apportion(-moved, charged.astype(np.float64))
        from_decode = np.minimum(parts, flights.decode_uj[rows, columns])
        flights.decode_uj[rows, columns] -= from_decode
        flights.prefill_uj[rows, columns] -= parts - from_decode
    flights.prefill_uj[row, column] -= moved
    return moved
