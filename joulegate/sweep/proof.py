"""The proof that nothing of a level is lost: records against books, books against the meter. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from joulegate.sweep.api import Moment, Record

METER_LAG_S = 0.5
"""How far off the time of a reading may be, at either end: the counter's period and lag (docs/meters.md), a
busy machine that reads it late, and several GPUs whose counters change at different times."""


NEAR_S = 1.5
"""Power so long before and after a reading may have been drawn between it and what it shows."""


@dataclass(frozen=True, slots=True)
class Proof:
    """That nothing is lost over all of the level, warm-up and drain included.

    `records_uj` sums what the final records say, `booked_uj` what the books charged to requests, both in
    integer microjoules; `foreign` requests were in flight when the level began or had other GPUs, so that the
    two need not agree. `books_joules` is all energy in the books between two readings of the meter,
    `meter_joules` what the meter counted between them; `meter_tolerance` how far, as a share, the readings'
    lag can set them apart.
    """

    requests: int
    records_uj: int
    booked_uj: int
    foreign: int
    balanced: bool
    books_joules: float | None
    meter_joules: float | None
    meter_off: float | None
    meter_tolerance: float | None

    @property
    def exact(self) -> bool | None:
        """None: other traffic overlapped, so that it cannot be told."""
        return None if self.foreign else self.records_uj == self.booked_uj

    @property
    def met(self) -> bool:
        meter = (
            self.meter_off is None or self.meter_tolerance is None or self.meter_off <= self.meter_tolerance
        )
        return self.balanced and self.exact is not False and meter


def prove(
    records: Sequence[Record],
    booked_uj: int,
    moments: Sequence[Moment],
    gpus: set[str],
    begin_s: float,
    meter: tuple[float, float, float] | None,
) -> Proof:
    """`booked_uj` was charged in intervals that begin at `begin_s` or later, when the load was still to come.

    `moments` begin before that; `meter` are two times and what it counted between them.
    """
    ours = [r for r in records if any(part["gpu"] in gpus for part in r["gpus"])]
    records_uj = sum(part["energy_uj"] for r in ours for part in r["gpus"] if part["gpu"] in gpus)
    foreign = sum(r["started_at"] < begin_s for r in ours)
    books_j = off = tolerance = None
    if meter is not None and all(moment.measured_uj is not None for moment in moments):
        books_j = _between(moments, meter[0], meter[1])
        off = abs(books_j / meter[2] - 1) if meter[2] else None
        edges_w = sum(_most_watts(moments, at_s) for at_s in meter[:2])
        tolerance = METER_LAG_S * edges_w / meter[2] if meter[2] else None
    return Proof(
        requests=len(ours),
        records_uj=records_uj,
        booked_uj=booked_uj,
        foreign=foreign,
        balanced=all(moment.balanced for moment in moments),
        books_joules=books_j,
        meter_joules=None if meter is None else meter[2],
        meter_off=off,
        meter_tolerance=tolerance,
    )


def _between(moments: Sequence[Moment], begin_s: float, end_s: float) -> float:
    """Joules measured between two times."""
    zero = moments[0].begin_s
    times = np.array([0.0, *(moment.end_s - zero for moment in moments)])
    joules = np.cumsum([0.0, *((moment.measured_uj or 0) / 1e6 for moment in moments)])
    first, last = np.interp([begin_s - zero, end_s - zero], times, joules)
    return float(last - first)


def _most_watts(moments: Sequence[Moment], at_s: float) -> float:
    """The most that was drawn in any moment within `NEAR_S` of a time."""
    near = [one for one in moments if one.begin_s < at_s + NEAR_S and one.end_s > at_s - NEAR_S]
    return max(((one.measured_uj or 0) / 1e6 / (one.end_s - one.begin_s) for one in near), default=0.0)
