"""The work model: what each kind of work costs on a backend, learnt while it runs.

The energy of a stretch of time is explained by the work done in it and by nothing else:

    E = c1 steps + c2 lg + c3 pre + c4 preq + c5 dec + c6 kv        all c >= 0

- `steps` engine steps; `lg` = steps log2(1 + batch)
- `pre` prompt tokens computed; `preq` the same times the context they attend to
- `dec` tokens generated after the first; `kv` the context they read, summed

There is no term for time: busy power is nearly constant, so such a term would swallow what the work explains
(docs/attribution.md). Features are scaled by the priors, so that every coefficient should be near 1.

Learning is least squares over windows of two intervals, kept as normal equations that forget with a
half-life, with a slight pull to the priors, and non-negative. Windows that the model misses by much more than
usual (a prompt booked into the wrong half second, say) count less: Huber's weights.
"""

from __future__ import annotations

from math import isfinite

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

FEATURES = ("steps", "lg", "pre", "preq", "dec", "kv")

HALF_LIFE_S = 600.0
RIDGE = 2e-4
"""Pull to the priors, as a share of the mean diagonal of the normal equations. Found on simulated loads."""

REFIT_EVERY = 5
"""Windows between two fits."""

WINDOW_INTERVALS = 2
HUBER = 2.0
"""A window off by more than this many times the usual error counts less."""

USUAL_ERROR_START = 0.1
USUAL_ERROR_MEMORY = 0.03
DIGITS = 10
"""Coefficients are rounded to this many digits: a solver's last bits shall not move a microjoule."""

BAD_FIT = 0.5
"""Above this relative error the fit is not to be trusted: the priors take over."""

Floats = NDArray[np.float64]


class ModelState(msgspec.Struct):
    """All that a model has learnt. Lists of floats, so that it can be written down exactly."""

    size: int
    gram: list[list[float]]
    moment: list[float]
    coefficients: list[float]
    usual_error: float = USUAL_ERROR_START
    windows: int = 0
    x: list[float] = []
    y: float = 0.0
    filled: int = 0


def widened(state: ModelState) -> ModelState:
    """What is learnt, with room for one more backend behind the others, of which nothing is known."""
    more = len(FEATURES)
    size = state.size + more
    return ModelState(
        size=size,
        gram=[[*row, *[0.0] * more] for row in state.gram] + [[0.0] * size] * more,
        moment=[*state.moment, *[0.0] * more],
        coefficients=[*state.coefficients, *[1.0] * more],
        usual_error=state.usual_error,
        windows=state.windows,
        x=[*state.x, *[0.0] * more] if state.x else [],
        y=state.y,
        filled=state.filled,
    )


class WorkModel:
    """One regression for all backends that share GPUs: `backends` times six columns."""

    def __init__(self, backends: int, state: ModelState | None = None) -> None:
        size = backends * len(FEATURES)
        if state is None or state.size != size:
            state = ModelState(
                size=size, gram=[[0.0] * size] * size, moment=[0.0] * size, coefficients=[1.0] * size
            )
        self._gram = np.array(state.gram, dtype=np.float64).reshape(size, size)
        self._moment = np.array(state.moment, dtype=np.float64)
        self.coefficients: Floats = np.array(state.coefficients, dtype=np.float64)
        self.usual_error = state.usual_error
        self.windows = state.windows
        self._x = np.array(state.x or [0.0] * size, dtype=np.float64)
        self._y, self._filled = state.y, state.filled

    def state(self) -> ModelState:
        return ModelState(
            size=len(self._moment),
            gram=self._gram.tolist(),
            moment=self._moment.tolist(),
            coefficients=self.coefficients.tolist(),
            usual_error=self.usual_error,
            windows=self.windows,
            x=self._x.tolist(),
            y=self._y,
            filled=self._filled,
        )

    @property
    def quality(self) -> float | None:
        """Usual relative error of a window's energy; None before anything was learnt."""
        return self.usual_error if self.windows else None

    def learn(self, row: Floats, energy_j: float, interval_s: float) -> None:
        """Take one interval: its scaled features and its energy. Without either it teaches nothing."""
        if not isfinite(energy_j) or not np.isfinite(row).all():
            return
        self._x += row
        self._y += energy_j
        self._filled += 1
        if self._filled < WINDOW_INTERVALS:
            return
        window, energy = self._x, self._y
        self._x, self._y, self._filled = np.zeros_like(window), 0.0, 0
        if energy <= 0 or window.sum() <= 0:
            return
        error = abs(energy - float((window * self.coefficients).sum())) / energy
        weight = min(1.0, HUBER * self.usual_error / max(error, 1e-9))
        self.usual_error += USUAL_ERROR_MEMORY * (min(error, 3 * self.usual_error) - self.usual_error)
        forget = 0.5 ** (WINDOW_INTERVALS * interval_s / HALF_LIFE_S)
        self._gram = self._gram * forget + (weight * weight) * np.multiply.outer(window, window)
        self._moment = self._moment * forget + (weight * weight * energy) * window
        self.windows += 1
        if self.windows % REFIT_EVERY == 0:
            self._fit()

    def _fit(self) -> None:
        size = len(self._moment)
        ridge = RIDGE * float(np.trace(self._gram)) / size
        gram = self._gram + ridge * np.eye(size)
        try:
            root = np.linalg.cholesky(gram)
            found, _ = nnls(root.T, np.linalg.solve(root, self._moment + ridge))
        except (np.linalg.LinAlgError, RuntimeError, ValueError):
            return  # keep what is known; the next windows will mend it
        if np.isfinite(found).all() and found.sum() > 0:
            self.coefficients = np.array([float(f"{c:.{DIGITS}g}") for c in found])

    @property
    def distrusted(self) -> bool:
        """Whether the fit misses by so much that the priors alone are the better guess."""
        return self.usual_error > BAD_FIT
