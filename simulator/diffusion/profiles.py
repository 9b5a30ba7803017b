"""What was fitted to measurements of diffusion models: the data file's loader.

`python -m benchmarks.diffusions.fit` writes simulator/profiles/diffusion.json; docs/simulator.md says how.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from simulator.diffusion.cards import CARDS, DiffusionCard
from simulator.diffusion.physics import Coefficients

FILE = Path(__file__).parents[1] / "profiles" / "diffusion.json"


@dataclass(frozen=True, slots=True)
class Point:
    """A published measurement of a batch: its size, its time in seconds, joules per image or video."""

    batch: int
    latency_s: float
    joules_each: float


@dataclass(frozen=True, slots=True)
class DiffusionProfile:
    """A model measured on so many GPUs of a kind (h100, b200). `layout` is Ulysses and ring degree.

    `errors` are those of the fit over its points, relative: median and largest, of time and joules.
    """

    model: str
    gpu: str
    gpus: int
    layout: tuple[int, int]
    coefficients: Coefficients
    errors: dict[str, list[float]]
    points: tuple[Point, ...]

    @property
    def card(self) -> DiffusionCard:
        return CARDS[self.model]

    @property
    def key(self) -> tuple[str, str, int]:
        return self.model, self.gpu, self.gpus


@cache
def profiles() -> dict[tuple[str, str, int], DiffusionProfile]:
    """All of them, by model (its Hugging Face name), GPU and number of GPUs."""
    loaded = [_profile(entry) for entry in json.loads(FILE.read_text())["profiles"]]
    return {profile.key: profile for profile in loaded}


def _profile(entry: dict[str, Any]) -> DiffusionProfile:
    points = tuple(Point(int(point[0]), *point[1:]) for point in entry["points"])
    coefficients = Coefficients(**entry["coefficients"])
    layout = tuple(entry["layout"])
    return DiffusionProfile(**{**entry, "layout": layout, "coefficients": coefficients, "points": points})
