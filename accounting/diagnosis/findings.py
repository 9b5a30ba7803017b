"""What a rule says: a finding, or why there is none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import log2, sqrt
from typing import Literal

Kind = Literal["waste", "limit", "work"]
"""`waste`: energy that brought nobody anything. `limit`: something holds the batch or the clock down.
`work`: what the requests themselves are like. Findings are ranked in this order of reach: the first two
together, by saving, then the last."""

Figure = float | int | str | None

EXTRAPOLATION = 0.10
"""Relative error of a saving, and as much again for each doubling of the batch. Held against the simulator by
`python -m benchmarks.diagnosis`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """`joules_uj`: energy that the cause takes part in. `saving_uj`: what less would have been drawn for the
    same requests with `change`; below 0 it would have been more, None: it cannot be told. `uncertainty_uj`:
    one standard deviation of it, estimated."""

    cause: str
    kind: Kind
    backend: str | None
    what: str
    change: str
    joules_uj: int | None
    saving_uj: int | None
    uncertainty_uj: int | None
    evidence: Mapping[str, Figure] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class RuledOut:
    """A cause that was looked for and not found, or that nobody can tell of (`unknown`)."""

    cause: str
    backend: str | None
    why: str
    unknown: bool = False
    evidence: Mapping[str, Figure] = field(default_factory=dict)


Verdict = Finding | RuledOut


def uncertainty_uj(saving_uj: float, price_error: float | None, before: float, after: float) -> int:
    """Of a saving that stands on the work model at a batch of `after` where it was `before`."""
    doublings = abs(log2(after / before)) if before > 0 and after > 0 else 0.0
    relative = sqrt((price_error or 0.1) ** 2 + (EXTRAPOLATION * (1 + doublings)) ** 2)
    return round(abs(saving_uj) * relative)


def rounded(value: float | None, digits: int = 3) -> float | None:
    """To so many significant digits: evidence is for reading."""
    return None if value is None else float(f"{value:.{digits}g}")
