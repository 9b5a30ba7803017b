"""What changed between two sweeps, level by level, with confidence intervals. Pure.

Each figure is drawn `DRAWS` times for either sweep by bootstrap (spread.py): joules and tokens per second
from blocks of consecutive seconds of the steady state, all else from its requests. The change is new / old -
1, draw by draw, as the two are independent; its interval is the middle 95 % of these. A change is told as
sure where the interval leaves out 0. With many figures some are sure by chance: one in twenty.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from joulegate.sweep import spread
from joulegate.sweep.figures import Second
from joulegate.sweep.level import Ran
from joulegate.sweep.plan import Plan
from joulegate.sweep.spread import Interval, Statistic

Floats = NDArray[np.float64]
OLD_SEED, NEW_SEED = 1, 2


@dataclass(frozen=True, slots=True)
class Change:
    """Of one figure at one level. `change` and its interval are shares; None: too few values, or from
    nothing.

    `better` is None where more is neither better nor worse.
    """

    level: float
    figure: str
    unit: str
    old: float
    new: float
    change: float | None
    interval: Interval | None
    better: bool | None

    @property
    def sure(self) -> bool:
        return self.interval is not None and not self.interval.low <= 0 <= self.interval.high


@dataclass(frozen=True, slots=True)
class Comparison:
    """`different` are settings that differ: name, old, new. `only_old` and `only_new` are levels."""

    changes: list[Change]
    different: list[tuple[str, str, str]]
    only_old: list[float]
    only_new: list[float]


RATIOS = (
    ("J/token", "J", "requests_joules", "tokens", False),
    ("tokens/s", "1/s", "tokens", "seconds", True),
    ("tokens per joule, all energy", "1/J", "tokens", "joules", True),
    ("power", "W", "joules", "seconds", None),
)
"""Name, unit, the two columns of `Second`, whether more is better."""

REQUESTS: tuple[tuple[str, str, str, Statistic, bool], ...] = (
    ("J/response", "J", "joules", spread.mean, False),
    ("TTFT p50", "ms", "ttft_ms", spread.quantile(0.5), False),
    ("TTFT p90", "ms", "ttft_ms", spread.quantile(0.9), False),
    ("TPOT p50", "ms", "tpot_ms", spread.quantile(0.5), False),
    ("TPOT p90", "ms", "tpot_ms", spread.quantile(0.9), False),
    ("response p50", "ms", "e2e_ms", spread.quantile(0.5), False),
    ("response p90", "ms", "e2e_ms", spread.quantile(0.9), False),
)


def compare(old: tuple[Plan, Sequence[Ran]], new: tuple[Plan, Sequence[Ran]]) -> Comparison:
    """All levels that both have."""
    olds, news = ({ran.level.level: ran for ran in runs} for _, runs in (old, new))
    changes = [
        change for level in sorted(olds.keys() & news.keys()) for change in _level(olds[level], news[level])
    ]
    different = [
        (field.name, str(getattr(old[0], field.name)), str(getattr(new[0], field.name)))
        for field in fields(Plan)
        if getattr(old[0], field.name) != getattr(new[0], field.name)
    ]
    return Comparison(
        changes, different, sorted(olds.keys() - news.keys()), sorted(news.keys() - olds.keys())
    )


def _level(old: Ran, new: Ran) -> list[Change]:
    found = []
    for name, unit, above, below, better in RATIOS:
        pairs = [(column(ran.seconds, above), column(ran.seconds, below)) for ran in (old, new)]
        if any(top is None or bottom is None or not bottom.sum() for top, bottom in pairs):
            continue
        (a, b), (c, d) = [(top, bottom) for top, bottom in pairs if top is not None and bottom is not None]
        draws = (spread.ratio_draws(a, b, OLD_SEED), spread.ratio_draws(c, d, NEW_SEED))
        values = (float(a.sum() / b.sum()), float(c.sum() / d.sum()))
        found.append(_change(old.level.level, name, unit, values, draws, better))
    for name, unit, field, statistic, less in REQUESTS:
        before, after = (of_requests(ran, field) for ran in (old, new))
        if len(before) and len(after):
            draws = (
                spread.draws_of(before, statistic, OLD_SEED),
                spread.draws_of(after, statistic, NEW_SEED),
            )
            values = (float(statistic(before[None])[0]), float(statistic(after[None])[0]))
            found.append(_change(old.level.level, name, unit, values, draws, less))
    return found


def column(seconds: Sequence[Second], name: str) -> Floats | None:
    """Of the steady state; `joules` is all energy of the GPUs. None where something was not measured."""
    inside = [second for second in seconds if second.in_steady]
    if name == "joules":
        if any(second.power_w is None for second in inside):
            return None
        return np.array([(second.power_w or 0.0) * second.seconds for second in inside])
    return np.array([getattr(second, name) for second in inside], float)


def of_requests(ran: Ran, name: str) -> Floats:
    """What is known of requests that ended in the steady state."""
    values = [getattr(seen, name) for seen in ran.seen if seen.in_steady]
    return np.array([value for value in values if value is not None], float)


def _change(
    level: float,
    name: str,
    unit: str,
    values: tuple[float, float],
    draws: tuple[Floats | None, Floats | None],
    more_is_better: bool | None,
) -> Change:
    old, new = values
    change = new / old - 1 if old else None
    interval = None
    if change is not None and draws[0] is not None and draws[1] is not None:
        count = min(len(draws[0]), len(draws[1]))
        before, after = draws[0][:count], draws[1][:count]
        interval = spread.interval(after[before > 0] / before[before > 0] - 1)
    better = None if more_is_better is None or not change else (change > 0) == more_is_better
    return Change(level, name, unit, old, new, change, interval, better)
