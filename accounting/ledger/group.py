"""GPUs that share backends: settled in step, priced by one work model that learns from each interval."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from accounting.ledger.history import History, Kept
from accounting.ledger.intervals import INTERVAL_US
from accounting.ledger.model import FEATURES, WorkModel
from accounting.ledger.state import BackendState, GpuState

SCALE_FORGETS = 0.2
"""What is forgotten of the earlier intervals' weight with each that follows."""
MOST_SCALE = 10.0

Floats = NDArray[np.float64]


@dataclass
class Group:
    """GPUs that share backends, settled in step."""

    number: int
    gpus: list[GpuState]
    backends: list[BackendState]
    names: list[str]
    model: WorkModel
    priors: list[Floats]
    """Of each backend: joules per unit of each feature."""
    history: History = field(default_factory=History)
    """Intervals settled, of which more may become known. The model learns from them when they leave."""
    scale: float | None = None
    """How far measured energy has been above what the model says of late. None before the first work."""
    scale_weight_j: float = 0.0
    """Joules of work, as the model says, from which `scale` is known."""
    _prices: list[Floats] = field(default_factory=list)
    _price_lists: list[list[float]] = field(default_factory=list)
    _priced: tuple[Floats, bool] | None = None
    """Of which coefficients these are the prices, and whether they were distrusted."""

    @property
    def settled_us(self) -> int:
        return self.gpus[0].settled_us

    def gpus_of(self, column: int) -> list[GpuState]:
        """The GPUs of the backend with this number."""
        mine = self.backends[column].gpus
        return [gpu for gpu in self.gpus if gpu.gpu in mine]

    def prices(self, column: int) -> Floats:
        """Joules per unit of each feature for the backend with this number."""
        self._price()
        return self._prices[column]

    def price_list(self, column: int) -> list[float]:
        """The same as plain numbers."""
        self._price()
        return self._price_lists[column]

    def _price(self) -> None:
        """Work the prices out anew where the model has learnt."""
        coefficients, distrusted = self.model.coefficients, self.model.distrusted
        if self._priced is not None and self._priced[0] is coefficients and self._priced[1] is distrusted:
            return
        learnt = coefficients.reshape(len(self.priors), len(FEATURES))
        self._prices = [
            prior if distrusted else part * prior for part, prior in zip(learnt, self.priors, strict=True)
        ]
        self._price_lists = [prices.tolist() for prices in self._prices]
        self._priced = coefficients, distrusted


def note_scale(group: Group, expected_j: float, energy_j: float) -> None:
    """Follow how far measured energy is above what the model says."""
    if energy_j > 0 and expected_j > 0:
        ratio = min(energy_j / expected_j, MOST_SCALE)
        # The first one says how far the priors are off; then the model learns, and this follows. By weight:
        # an interval with next to no work has the energy of the counter's whole step, ten times too much.
        before_j = 0.0 if group.scale is None else (1 - SCALE_FORGETS) * group.scale_weight_j
        group.scale_weight_j = before_j + expected_j
        group.scale = ((group.scale or 0.0) * before_j + ratio * expected_j) / group.scale_weight_j


def learn(group: Group, kept: Kept) -> bool:
    """Teach the model what the interval's work cost, all GPUs together. False: it has, or it cannot."""
    if kept.energy_j > 0 and not kept.learnt and kept.sure:
        kept.learnt = True
        pairs = zip(kept.works, group.priors, strict=True)
        scaled = [np.array(work.sums()) * prior for work, prior in pairs]
        group.model.learn(np.concatenate(scaled), kept.energy_j, INTERVAL_US / 1e6)
        return True
    return False
