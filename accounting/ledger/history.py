"""Settled intervals that are kept, as what is known of them may still change.

How much of a prompt was cached, when the prompt of a long-awaited first token was computed, all of an answer
that is not streamed: such things are told after the intervals were settled. So an interval's features and the
parts of its energy are kept until every request in it has told all that it can; then the work model learns
from it and it is dropped. What is kept is bounded: beyond MOST_ENTRIES the oldest go first.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from accounting.ledger.features import Work
from accounting.ledger.intervals import INTERVAL_US, number, numbers
from accounting.ledger.jobs import FEATURES as JOB_FEATURES
from accounting.ledger.jobs import JobWork
from accounting.ledger.packed import pack, unpack
from accounting.ledger.state import HistoryState, KeptState

MOST_ENTRIES = 200_000
"""Requests times intervals, of one group: about 15 MB."""

MOST_INTERVALS = 600
"""Five minutes: of a longer answer that is not streamed, the rest stays as it was charged."""

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
_NO_INTS, _NO_FLOATS = np.zeros(0, np.int64), np.zeros(0, np.float64)
_JOB_ARRAYS = ("whole", "part", "known")
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
    works: list[Work | JobWork]
    gpus: list[KeptGpu]
    energy_j: float
    """Of all that was at work, requests of others included: what the model learns."""
    busy_us: list[int] = field(default_factory=list)
    """By backend: time with a request in flight."""
    stale: bool = False
    """Whether something became known that its parts do not show yet."""
    learnt: bool = False

    @property
    def t1_us(self) -> int:
        return self.t0_us + INTERVAL_US

    @property
    def sure(self) -> bool:
        """Whether its work is known well enough to learn from: nobody knows how much of an image or a video
        was done as long as none like it has ended."""
        return all(work.sure for work in self.works if isinstance(work, JobWork))

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
    """The kept intervals of one group, oldest first. There may be gaps between them."""

    kept: list[Kept] = field(default_factory=list)
    lost_us: int = 0
    """Before this time intervals were dropped for want of room, whatever may become known of them."""

    def since(self, t_us: int) -> Iterator[Kept]:
        """Those that end after `t_us`, newest first."""
        for kept in reversed(self.kept):
            if kept.t1_us <= t_us:
                return
            yield kept

    def between(self, t0_us: int, t1_us: int) -> list[Kept]:
        """Those that [t0_us, t1_us] touches, oldest first."""
        first = bisect_right(self.kept, t0_us, key=lambda kept: kept.t1_us)
        last = bisect_right(self.kept, t1_us, key=lambda kept: kept.t0_us)
        return self.kept[first:last]

    def touch(self, begins_us: Ints, ends_us: Ints) -> NDArray[np.bool_]:
        """For each stretch of time [begin, end): whether any kept interval lies in it, in part at least."""
        t0 = np.array([kept.t0_us for kept in self.kept], np.int64)
        if not len(t0):
            return np.zeros(len(begins_us), np.bool_)
        following = np.searchsorted(t0 + INTERVAL_US, begins_us, side="right")
        there: NDArray[np.bool_] = following < len(t0)
        return there & (t0[np.minimum(following, len(t0) - 1)] < ends_us)

    def drop(self, begins_us: Ints, ends_us: Ints) -> list[Kept]:
        """Take out those in none of these stretches [begin, end], and the oldest if there is no room."""
        if not self.kept:
            return []
        needed = self._needed(begins_us, ends_us)
        dropped = [kept for kept, need in zip(self.kept, needed, strict=True) if not need]
        left = [kept for kept, need in zip(self.kept, needed, strict=True) if need]
        entries = sum(kept.entries for kept in left)
        gone = 0
        while entries > MOST_ENTRIES or len(left) - gone > MOST_INTERVALS:
            entries -= left[gone].entries
            self.lost_us = left[gone].t1_us
            gone += 1
        self.kept = left[gone:]
        return dropped + left[:gone]

    def _needed(self, begins_us: Ints, ends_us: Ints) -> list[bool]:
        # How many stretches have begun by each interval's end, less those that ended before it began. Counted
        # by interval: sorting them would cost more than all the rest where there are many.
        first = number(self.kept[0].t0_us)
        span = number(self.kept[-1].t0_us) - first + 1
        begun = np.bincount(np.clip(numbers(begins_us) - first, 0, span), minlength=span + 1).cumsum()
        over = np.bincount(np.clip(numbers(ends_us) - first + 1, 0, span), minlength=span + 1).cumsum()
        return [bool(begun[k] > over[k]) for k in (number(kept.t0_us) - first for kept in self.kept)]

    def state(self) -> HistoryState:
        return HistoryState(kept=[_write(kept) for kept in self.kept], lost_us=self.lost_us)

    @classmethod
    def of(cls, state: HistoryState) -> History:
        return cls([_read(kept) for kept in state.kept], state.lost_us)


def lean(work: Work | JobWork) -> Work | JobWork:
    """What of a work is needed to split its interval anew."""
    if isinstance(work, JobWork):
        return work.lean()
    return replace(work, rows=_NO_INTS, in_flight_us=_NO_INTS, context=_NO_FLOATS, assumed=_NO_FLOATS)


def _write(kept: Kept) -> KeptState:
    return KeptState(
        t0_us=kept.t0_us,
        energy_j=kept.energy_j,
        stale=kept.stale,
        learnt=kept.learnt,
        handles=[pack(handles) for handles in kept.handles],
        works=[
            {name: pack(getattr(w, name)) for name in (_JOB_ARRAYS if isinstance(w, JobWork) else _ARRAYS)}
            for w in kept.works
        ],
        steps=[
            (w.together, True, 0.0, 0.0)
            if isinstance(w, JobWork)
            else (w.steps, w.steps_seen, w.others_tokens, w.others_prompt)
            for w in kept.works
        ],
        gpus=[(g.gpu, g.energy_uj, g.dynamic, [pack(p) for p in g.parts], g.places) for g in kept.gpus],
        busy_us=kept.busy_us,
    )


def _read(state: KeptState) -> Kept:
    works: list[Work | JobWork] = []
    for arrays, (steps, seen, others_tokens, others_prompt) in zip(state.works, state.steps, strict=True):
        if "whole" in arrays:
            works.append(
                JobWork(
                    rows=_NO_INTS,
                    in_flight_us=_NO_INTS,
                    whole=unpack(arrays["whole"], np.float64).reshape(-1, len(JOB_FEATURES)),
                    part=unpack(arrays["part"], np.float64),
                    together=steps,
                    known=unpack(arrays["known"], np.bool_),
                )
            )
            continue
        work = Work(
            **{name: unpack(arrays[name], np.float64) for name in _ARRAYS},
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
        handles=[unpack(handles, np.int64) for handles in state.handles],
        works=works,
        gpus=[
            KeptGpu(gpu, energy, dynamic, [unpack(p, np.int64).reshape(-1, 2) for p in parts], places)
            for gpu, energy, dynamic, parts, places in state.gpus
        ],
        energy_j=state.energy_j,
        busy_us=state.busy_us,
        stale=state.stale,
        learnt=state.learnt,
    )
