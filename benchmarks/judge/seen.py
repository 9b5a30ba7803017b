"""What the proxy sees of a trace, as arrays over requests and intervals: the input of the simpler methods.

They get the same energy that the ledger charged to requests, interval by interval: what differs is who pays.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from accounting.events import FirstToken, RequestFinished, RequestStarted, Tick
from benchmarks.judge.ours import Settlement
from benchmarks.traces.telling import handle_of
from benchmarks.traces.trace import Trace

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(slots=True)
class Cells:
    """A sparse matrix: `value[j]` belongs to request `who[j]` in interval `when[j]`."""

    who: Ints
    when: Ints
    value: Floats

    def by_interval(self, count: int) -> Floats:
        return np.bincount(self.when, self.value, count).astype(np.float64)

    def by_request(self, count: int) -> Floats:
        return np.bincount(self.who, self.value, count).astype(np.float64)


@dataclass(slots=True)
class Seen:
    """Requests that passed the proxy, in the order of `numbers`; intervals as the books have them."""

    numbers: list[int]
    energy_j: Floats
    """Charged to requests, by interval, all GPUs."""
    length_s: Floats
    prompt: Floats
    output: Floats
    in_flight_s: Cells
    prompts: Cells
    """Prompt tokens, in the interval of the first token."""
    tokens: Cells
    """Output tokens where they were seen; evenly over its time where an answer came in one piece."""

    def share(self, weights: Cells) -> Floats:
        """Each request's joules when every interval's energy is split by `weights`."""
        whole = weights.by_interval(len(self.energy_j))
        per_unit = np.divide(self.energy_j, whole, out=np.zeros_like(whole), where=whole > 0)
        got = Cells(weights.who, weights.when, weights.value * per_unit[weights.when])
        return got.by_request(len(self.numbers))


def see(trace: Trace, settlement: Settlement) -> Seen:
    starts = sorted({(entry.t0_us, entry.t1_us) for entry in settlement.books})
    begin_us, end_us = np.array(starts, np.int64).T
    energy_uj = np.zeros(len(starts))
    position = {t0: k for k, (t0, _) in enumerate(starts)}
    for entry in settlement.books:
        energy_uj[position[entry.t0_us]] += entry.requests_uj
    numbers = [number for number, request in enumerate(trace.requests) if request.seen]
    row = {handle_of(number): k for k, number in enumerate(numbers)}
    started, first, ended = (np.zeros(len(numbers), np.int64) for _ in range(3))
    prompt, output = np.zeros(len(numbers)), np.zeros(len(numbers))
    token_cells: list[tuple[Ints, Ints, Floats]] = []
    for event in trace.events:
        match event:
            case RequestStarted():
                started[row[event.handle]] = event.t_us
            case FirstToken():
                first[row[event.handle]] = event.t_us
            case Tick() if event.handles:
                who = np.array([row[handle] for handle in event.handles], np.int64)
                k = int(_interval(begin_us, np.array([event.t_us]))[0])
                token_cells.append((who, np.full(len(who), k), np.array(event.tokens, np.float64)))
            case RequestFinished():
                assert event.usage is not None
                at = row[event.handle]
                ended[at] = event.t_us
                prompt[at] = event.usage.prompt_tokens or 0
                output[at] = event.usage.completion_tokens or 0
    in_flight = _overlaps(started, ended, begin_us, end_us)
    pieces = first == 0
    first = np.where(pieces, started, first)
    lasting = in_flight.by_request(len(numbers))
    spread = in_flight.value * (pieces * output / np.maximum(lasting, 1e-9))[in_flight.who]
    token_cells.append((in_flight.who, in_flight.when, spread))
    tokens = Cells(*(np.concatenate(column) for column in zip(*token_cells, strict=True)))
    everyone = np.arange(len(numbers))
    return Seen(
        numbers=numbers,
        energy_j=energy_uj / 1e6,
        length_s=(end_us - begin_us) / 1e6,
        prompt=prompt,
        output=output,
        in_flight_s=in_flight,
        prompts=Cells(everyone, _interval(begin_us, first), prompt),
        tokens=tokens,
    )


def _interval(begin_us: Ints, t_us: Ints) -> Ints:
    found: Ints = np.searchsorted(begin_us, t_us, side="right") - 1
    return found


def _overlaps(started: Ints, ended: Ints, begin_us: Ints, end_us: Ints) -> Cells:
    """Seconds that each request was in flight in each interval."""
    lowest, highest = _interval(begin_us, started), _interval(begin_us, ended)
    lengths = highest - lowest + 1
    who = np.repeat(np.arange(len(started)), lengths)
    when = np.arange(len(who)) - np.repeat(np.cumsum(lengths) - lengths, lengths) + lowest[who]
    inside = np.minimum(ended[who], end_us[when]) - np.maximum(started[who], begin_us[when])
    return Cells(who, when, np.maximum(inside, 0) / 1e6)
