"""Four simpler methods, as they are in use or would come to mind first. Joules per request each.

All see the same tokens and times as the ledger and split the same energy.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from benchmarks.judge.seen import Cells, Seen

Floats = NDArray[np.float64]

WINDOW = 2
"""Intervals per row of the regression: one second."""


def by_all_tokens(seen: Seen) -> Floats:
    """The energy of the whole run, by prompt and output tokens."""
    tokens = seen.prompt + seen.output
    share: Floats = tokens * (seen.energy_j.sum() / tokens.sum())
    return share


def by_head(seen: Seen) -> Floats:
    """Every interval in equal parts to the requests in flight, by their time in it."""
    return seen.share(seen.in_flight_s)


def by_output(seen: Seen) -> Floats:
    """Every interval by the output tokens seen in it; where there are none, by head."""
    return seen.share(_or_head(seen.tokens, seen))


def by_regression(seen: Seen) -> Floats:
    """E = a busy time + b prompt tokens + c output tokens, fitted over the whole run; busy time by head."""
    count = len(seen.energy_j)
    flying = seen.in_flight_s.by_interval(count)
    busy = np.minimum(flying, seen.length_s)
    features = np.stack([busy, seen.prompts.by_interval(count), seen.tokens.by_interval(count)], axis=1)
    rows = count // WINDOW * WINDOW
    windows = features[:rows].reshape(-1, WINDOW, 3).sum(axis=1)
    energy = seen.energy_j[:rows].reshape(-1, WINDOW).sum(axis=1)
    scale = np.maximum(windows.max(axis=0), 1e-9)
    prices = nnls(windows / scale, energy)[0] / scale
    per_second = np.divide(busy, flying, out=np.zeros(count), where=flying > 0) * prices[0]
    parts = (
        Cells(
            seen.in_flight_s.who,
            seen.in_flight_s.when,
            seen.in_flight_s.value * per_second[seen.in_flight_s.when],
        ),
        Cells(seen.prompts.who, seen.prompts.when, seen.prompts.value * prices[1]),
        Cells(seen.tokens.who, seen.tokens.when, seen.tokens.value * prices[2]),
    )
    return seen.share(_or_head(_joined(*parts), seen))


METHODS = {
    "tokens in+out": by_all_tokens,
    "equal split": by_head,
    "output tokens": by_output,
    "regression": by_regression,
}


def _joined(*parts: Cells) -> Cells:
    return Cells(
        np.concatenate([part.who for part in parts]),
        np.concatenate([part.when for part in parts]),
        np.concatenate([part.value for part in parts]),
    )


def _or_head(weights: Cells, seen: Seen) -> Cells:
    """`weights`, and by head where an interval has none: no energy may be lost."""
    flying, empty = seen.in_flight_s, weights.by_interval(len(seen.energy_j)) <= 0
    kept = empty[flying.when]
    return _joined(weights, Cells(flying.who[kept], flying.when[kept], flying.value[kept]))
