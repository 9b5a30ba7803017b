"""What became known too late: energy moved between open requests, so that sums stay as they are.

A prompt's cached tokens, and all of an answer that was not streamed, are told only at the end, when most of
the time is settled and charged by guess. Then what the request was charged is compared with what the work
model says of the work it really did in settled time, and the difference is moved to (or from) the requests
that are open beside it, in proportion to what they were charged. Per GPU and in integers: no book changes.

A request only claims its due when it ends; claims are met together when the next interval is settled, so that
an end costs the same however many requests are open.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from accounting.ledger.apportion import apportion
from accounting.ledger.features import prompt_joules
from accounting.ledger.flights import Flights
from accounting.ledger.group import Group, correct_decode, correct_lessons
from accounting.ledger.state import Claim

MOST_TAKEN = 0.5
"""No request gives more than this part of what it was charged."""

MOST_TIMES = 10.0

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def claim_prompt(flights: Flights, row: int, group: Group) -> None:
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
    if int(flights.pre0[row]) >= group.settled_us:
        return  # none of it is charged yet
    prices = group.prices(column)
    was = prompt_joules(prices, assumed, max(prompt, assumed))
    if was <= 0:
        return
    keep = min(prompt_joules(prices, actual, prompt) / was, MOST_TIMES)
    for place in range(len(flights.teller(row).gpus)):
        charged = int(flights.prefill_uj[row, place])
        _claim(flights, row, place, group, round(charged * keep), int(flights.decode_uj[row, place]))


class Guess(NamedTuple):
    """How the work of an answer that was not streamed was taken to lie while it was in flight."""

    pre0_us: int
    pre1_us: int
    uncached: float
    prompt: float
    tokens: float

    @classmethod
    def of(cls, flights: Flights, row: int) -> Guess:
        return cls(
            int(flights.pre0[row]),
            int(flights.pre1[row]),
            float(flights.uncached[row]),
            float(flights.prompt[row]),
            float(flights.guessed[row]),
        )


def _mend_lessons(flights: Flights, row: int, group: Group, guess: Guess, tokens: float) -> None:
    """Take the guess out of what the model is to learn from, and put in what was."""
    column = int(flights.column[row])
    uncached, prompt = float(flights.uncached[row]), float(flights.prompt[row])
    reads = guess.uncached * (guess.prompt - guess.uncached / 2)
    correct_lessons(group, column, guess.pre0_us, guess.pre1_us, -guess.uncached, -reads)
    reads = uncached * (prompt - uncached / 2)
    correct_lessons(group, column, int(flights.pre0[row]), int(flights.pre1[row]), uncached, reads)
    first, end = int(flights.first[row]), int(flights.end[row])
    correct_decode(
        group, column, guess.pre1_us, max(group.settled_us, guess.pre1_us), -guess.tokens, guess.prompt
    )
    if tokens and first:
        correct_decode(group, column, first, end, tokens, prompt + tokens / 2 / float(flights.seqs[row]))


def claim_unstreamed(flights: Flights, row: int, group: Group, guess: Guess) -> None:
    """An answer that was not streamed has ended: its work in settled time is known only now.

    Until here it was charged as if it decoded all along, also while it was queued or its prompt computed.
    """
    column, settled = int(flights.column[row]), group.settled_us
    per_token = group.backends[column].step_joules
    told = flights.teller(row)
    tokens = float((told.usage.completion_tokens if told.usage is not None else None) or 0)
    _mend_lessons(flights, row, group, guess, tokens)
    if group.scale is None or per_token is None or settled <= int(flights.start[row]):
        return
    prices, prompt = group.prices(column), float(flights.prompt[row])
    decoded = tokens * _part_before(int(flights.first[row]), int(flights.end[row]), settled)
    prefilled = _part_before(int(flights.pre0[row]), int(flights.pre1[row]), settled)
    context = prompt + decoded / 2 / float(flights.seqs[row])
    prefill = prompt_joules(prices, float(flights.uncached[row]), prompt) * prefilled
    decode = decoded * (per_token + float(prices[4]) + float(prices[5]) * context)
    places = len(told.gpus)
    for place in range(places):
        covered = int(flights.covered_us[row, place])
        known = covered / max(covered + int(flights.uncovered_us[row, place]), 1)
        due = group.scale * known * 1e6 / places
        _claim(flights, row, place, group, round(prefill * due), round(decode * due))


def _part_before(begin_us: int, end_us: int, t_us: int) -> float:
    """Which part of [begin, end] lies before `t_us`."""
    if end_us <= begin_us:
        return 1.0 if end_us <= t_us else 0.0
    return min(max((t_us - begin_us) / (end_us - begin_us), 0.0), 1.0)


def _claim(flights: Flights, row: int, place: int, group: Group, prefill_uj: int, decode_uj: int) -> None:
    now = int(flights.prefill_uj[row, place]), int(flights.decode_uj[row, place])
    if now != (prefill_uj, decode_uj):
        claim = Claim(
            handle=int(flights.handle[row]), place=place, prefill_uj=prefill_uj, decode_uj=decode_uj
        )
        group.claims.append(claim)


def meet_claims(flights: Flights, group: Group) -> None:
    """Move energy between the requests that claim and the others open on the same GPU."""
    claims, group.claims = group.claims, []
    by_gpu: dict[str, list[Claim]] = {}
    for claim in claims:
        gpu = flights.teller(flights.row[claim.handle]).gpus[claim.place]
        by_gpu.setdefault(gpu, []).append(claim)
    for gpu, here in by_gpu.items():
        _meet(flights, group, gpu, here)


def _meet(flights: Flights, group: Group, gpu: str, claims: list[Claim]) -> None:
    rows, columns = _open_on(flights, gpu, group)
    claiming = np.array([flights.row[claim.handle] for claim in claims], np.int64)
    others = ~np.isin(rows, claiming)
    rows, columns = rows[others], columns[others]
    charged = flights.prefill_uj[rows, columns] + flights.decode_uj[rows, columns]
    held = int(charged.sum())
    asked = [claim.prefill_uj + claim.decode_uj for claim in claims]
    has = [
        int(flights.prefill_uj[row, claim.place] + flights.decode_uj[row, claim.place])
        for row, claim in zip(claiming.tolist(), claims, strict=True)
    ]
    missing = sum(asked) - sum(has)
    if missing > 0:
        # Not more than the others can give: every claim for more is met in the same proportion.
        more = [max(a - h, 0) for a, h in zip(asked, has, strict=True)]
        less = apportion(max(missing - int(held * MOST_TAKEN), 0), more).tolist()
        asked = [a - part for a, part in zip(asked, less, strict=True)]
    elif missing < 0 and held <= 0:
        # Nobody to give to: what is not claimed stays where it is.
        spare = [max(h - a, 0) for a, h in zip(asked, has, strict=True)]
        asked = [a + part for a, part in zip(asked, apportion(-missing, spare).tolist(), strict=True)]
    for row, claim, gets, had in zip(claiming.tolist(), claims, asked, has, strict=True):
        whole = claim.prefill_uj + claim.decode_uj
        prefill = gets * claim.prefill_uj // whole if whole else 0
        flights.prefill_uj[row, claim.place], flights.decode_uj[row, claim.place] = prefill, gets - prefill
        before = int(flights.prefill_uj[row].sum() + flights.decode_uj[row].sum()) + had - gets
        flights.dynamic_uj[row] = int(flights.dynamic_uj[row]) * (before + gets - had) // max(before, 1)
    _spread(flights, rows, columns, charged, sum(has) - sum(asked))


def _spread(flights: Flights, rows: Ints, columns: Ints, charged: Ints, energy_uj: int) -> None:
    """Give `energy_uj` to these requests in proportion to what they were charged; negative: take it."""
    if not energy_uj or not len(rows):
        return
    parts = apportion(abs(energy_uj), charged.astype(np.float64))
    if energy_uj > 0:
        flights.decode_uj[rows, columns] += parts
        sign = 1
    else:
        from_decode = np.minimum(parts, flights.decode_uj[rows, columns])
        flights.decode_uj[rows, columns] -= from_decode
        flights.prefill_uj[rows, columns] -= parts - from_decode
        sign = -1
    share = parts / np.maximum(charged, 1)
    flights.dynamic_uj[rows] += sign * (flights.dynamic_uj[rows] * share).astype(np.int64)


def _open_on(flights: Flights, gpu: str, group: Group) -> tuple[Ints, Ints]:
    """The open requests on a GPU, by handle, and their columns for it."""
    of_backend = np.array([b.gpus.index(gpu) if gpu in b.gpus else -1 for b in group.backends], np.int64)
    n = flights.rows
    rows = np.flatnonzero((flights.group[:n] == group.number) & flights.works[:n])
    rows = flights.in_order(rows[of_backend[flights.column[rows]] >= 0])
    return rows, of_backend[flights.column[rows]]
