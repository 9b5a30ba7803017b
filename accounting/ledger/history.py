"""Settled intervals that are kept, as what is known of them may still change.

How much of a prompt was cached, when the prompt of a long-awaited first token was computed, all of an answer
that is not streamed: such things are told after the intervals were settled. So an interval's features and the
parts of its energy are kept until every request in it has told all that it can; then the work model learns
from it and it is dropped. What is kept is bounded: beyond MOST_ENTRIES the oldest go first.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from accounting.ledger.features import Work
from accounting.ledger.intervals import INTERVAL_US
from accounting.ledger.state import KeptState

MOST_ENTRIES = 200_000
"""Requests times intervals, of one group: about 15 MB."""

MOST_INTERVALS = 600
"""Five minutes: of a longer answer that is not streamed, the rest stays as it was charged."""

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
_Number = TypeVar("_Number", np.int64, np.float64)
_NO_INTS, _NO_FLOATS = np.zeros(0, np.int64), np.zeros(0, np.float64)
_ARRAYS = ("tokens", "firsts", "prompt", "prompt_reads", "decoded", "reads", "sequences")


@dataclass(slots=True)
class KeptGpu:
    """One GPU's energy of the interval."""

    gpu: str
    energy_uj: int
    """Charged to requests."""
    dynamic: float | None
    """Which part of it was not idle power. None where the idle power was not known."""
    parts: list[Ints]
    """By backend: microjoules of each request, shape (requests, 2), prefill and decode."""
    places: list[int]
    """By backend: where this GPU stands among the backend's; -1 where it is not one of them."""


@dataclass(slots=True)
class Kept:
    """One interval of a group. Lists run over the group's backends."""

    t0_us: int
    handles: list[Ints]
    """Ascending."""
    works: list[Work]
    gpus: list[KeptGpu]
    energy_j: float
    """Of all that was at work, requests of others included: what the model learns."""
    stale: bool = False
    """Whether something became known that its parts do not show yet."""
    learnt: bool = False

    @property
    def t1_us(self) -> int:
        return self.t0_us + INTERVAL_US

    @property
    def entries(self) -> int:
        return sum(len(handles) for handles in self.handles)

    def place(self, column: int, handle: int) -> int | None:
        """Where this request of the backend stands in the arrays."""
        handles = self.handles[column]
        at = int(np.searchsorted(handles, handle))
        return at if at < len(handles) and handles[at] == handle else None


@dataclass(slots=True)
class History:
    """The kept intervals of one group, oldest first."""

    kept: list[Kept] = field(default_factory=list)

    def floor_us(self, settled_us: int) -> int:
        """Work after this time can still be charged where it was done."""
        return self.kept[0].t0_us if self.kept else settled_us

    def since(self, t_us: int) -> Iterator[Kept]:
        """Those that end after `t_us`, newest first."""
        for kept in reversed(self.kept):
            if kept.t1_us <= t_us:
                return
            yield kept

    def drop_before(self, t_us: int) -> list[Kept]:
        """Take out those that end by `t_us`, and the oldest where there are too many."""
        entries = sum(kept.entries for kept in self.kept)
        gone = 0
        for kept in self.kept:
            crowded = entries > MOST_ENTRIES or len(self.kept) - gone > MOST_INTERVALS
            if kept.t1_us > t_us and not crowded:
                break
            entries -= kept.entries
            gone += 1
        dropped, self.kept = self.kept[:gone], self.kept[gone:]
        return dropped

    def state(self) -> list[KeptState]:
        return [_write(kept) for kept in self.kept]

    @classmethod
    def of(cls, states: list[KeptState]) -> History:
        return cls([_read(state) for state in states])


def lean(work: Work) -> Work:
    """What of a work is needed to split its interval anew."""
    return replace(work, rows=_NO_INTS, in_flight_us=_NO_INTS, context=_NO_FLOATS, assumed=_NO_FLOATS)


def _write(kept: Kept) -> KeptState:
    return KeptState(
        t0_us=kept.t0_us,
        energy_j=kept.energy_j,
        stale=kept.stale,
        learnt=kept.learnt,
        handles=[_pack(handles) for handles in kept.handles],
        works=[{name: _pack(getattr(work, name)) for name in _ARRAYS} for work in kept.works],
        steps=[(w.steps, w.steps_seen, w.others_tokens, w.others_prompt) for w in kept.works],
        gpus=[(g.gpu, g.energy_uj, g.dynamic, [_pack(p) for p in g.parts], g.places) for g in kept.gpus],
    )


def _read(state: KeptState) -> Kept:
    works = []
    for arrays, (steps, seen, others_tokens, others_prompt) in zip(state.works, state.steps, strict=True):
        work = Work(
            **{name: _unpack(arrays[name], np.float64) for name in _ARRAYS},
            rows=_NO_INTS,
            in_flight_us=_NO_INTS,
            context=_NO_FLOATS,
            assumed=_NO_FLOATS,
            steps=steps,
            steps_seen=seen,
            others_tokens=others_tokens,
            others_prompt=others_prompt,
        )
        works.append(work)
    return Kept(
        t0_us=state.t0_us,
        handles=[_unpack(handles, np.int64) for handles in state.handles],
        works=works,
        gpus=[
            KeptGpu(gpu, energy, dynamic, [_unpack(p, np.int64).reshape(-1, 2) for p in parts], places)
            for gpu, energy, dynamic, parts, places in state.gpus
        ],
        energy_j=state.energy_j,
        stale=state.stale,
        learnt=state.learnt,
    )


def _pack(array: NDArray[np.generic]) -> bytes:
    return zlib.compress(np.ascontiguousarray(array).tobytes(), 1)


def _unpack(packed: bytes, kind: type[_Number]) -> NDArray[_Number]:
    return np.frombuffer(zlib.decompress(packed), kind).copy()
