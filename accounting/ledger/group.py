"""GPUs that share backends: settled in step, priced by one work model that learns from each interval."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from accounting.ledger.features import Work, overlap
from accounting.ledger.intervals import INTERVAL_US
from accounting.ledger.model import FEATURES, WorkModel
from accounting.ledger.state import BackendState, Claim, GpuState, Lesson

SCALE_MEMORY = 0.2
MOST_SCALE = 10.0

LESSON_DELAY = 60
"""Intervals that wait for late news of prompts before the model learns from them."""

NEWS = 0.02
"""Above this part of prompt tokens cached, or of answers not streamed, such news matters."""

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
    lessons: list[Lesson] = field(default_factory=list)
    """Intervals settled and not learnt from yet, oldest first."""
    claims: list[Claim] = field(default_factory=list)
    """Of requests that ended since the last interval was settled (`trueup.py`)."""
    scale: float | None = None
    """How far measured energy has been above what the model says of late. None before the first work."""

    @property
    def settled_us(self) -> int:
        return self.gpus[0].settled_us

    def prices(self, column: int) -> Floats:
        """Joules per unit of each feature for the backend with this number."""
        width = len(FEATURES)
        learnt = self.model.coefficients[column * width : (column + 1) * width]
        return self.priors[column] if self.model.distrusted else learnt * self.priors[column]


def learn(group: Group, works: list[Work], k: int, expected_j: float, energy_j: float) -> None:
    """Teach the model what the work of interval `k` cost, all GPUs together."""
    if energy_j <= 0:
        return
    if expected_j > 0:
        ratio = min(energy_j / expected_j, MOST_SCALE)
        # The first one says how far the priors are off; then the model learns, and this follows.
        group.scale = ratio if group.scale is None else group.scale + SCALE_MEMORY * (ratio - group.scale)
    scaled = [np.array(work.sums()) * prior for work, prior in zip(works, group.priors, strict=True)]
    group.lessons.append(Lesson(k=k, x=np.concatenate(scaled).tolist(), energy_j=energy_j))
    # How much of a prompt was cached, and all of an answer not streamed, is known only at the end: wait.
    late = any(b.cached_part > NEWS or b.unseen_part > NEWS for b in group.backends)
    delay = LESSON_DELAY if late else 0
    while len(group.lessons) > delay:
        lesson = group.lessons.pop(0)
        group.model.learn(np.array(lesson.x), lesson.energy_j, INTERVAL_US / 1e6)


def correct_lessons(group: Group, column: int, begin_us: int, end_us: int, pre: float, preq: float) -> None:
    """A prompt with the window [begin, end] took `pre` and `preq` more (or less) work than was thought."""
    priors, at = group.priors[column], column * len(FEATURES)
    for lesson, part in _parts(group, begin_us, end_us):
        lesson.x[at + 2] = max(lesson.x[at + 2] + part * pre * float(priors[2]), 0.0)
        lesson.x[at + 3] = max(lesson.x[at + 3] + part * preq * float(priors[3]), 0.0)


def correct_decode(
    group: Group, column: int, begin_us: int, end_us: int, tokens: float, context: float
) -> None:
    """`tokens` more (or less) than was thought came evenly over [begin, end], each reading `context`."""
    priors, at = group.priors[column], column * len(FEATURES)
    for lesson, part in _parts(group, begin_us, end_us):
        lesson.x[at + 4] = max(lesson.x[at + 4] + part * tokens * float(priors[4]), 0.0)
        lesson.x[at + 5] = max(lesson.x[at + 5] + part * tokens * context * float(priors[5]), 0.0)


def _parts(group: Group, begin_us: int, end_us: int) -> Iterator[tuple[Lesson, float]]:
    """The lessons that [begin, end] touches, and which part of it lies in each."""
    for lesson in group.lessons:
        t0_us = lesson.k * INTERVAL_US
        part = float(overlap(np.array([begin_us]), np.array([end_us]), t0_us, t0_us + INTERVAL_US)[0])
        if part:
            yield lesson, part
