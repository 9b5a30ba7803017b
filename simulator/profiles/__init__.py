"""What was fitted to measurements: data files, and the one loader.

- `measured.json`  per model, GPU, number of GPUs and task: coefficients of a step, their error, the points
- `generic.json`   constants of the form that needs a model card only, and its error for models left out

`python -m benchmarks.sweeps.fit` writes both. docs/simulator.md says how.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

MEASURED = Path(__file__).with_name("measured.json")
GENERIC = Path(__file__).with_name("generic.json")


@dataclass(frozen=True, slots=True)
class Point:
    """A published measurement: mean sequences in the batch, output tokens per second, joules per token."""

    max_num_seqs: int
    batch: float
    tokens_per_s: float
    joules_per_token: float


@dataclass(frozen=True, slots=True)
class Coefficients:
    """Of a step in seconds or joules: once, per request, of all experts, and where the slope changes."""

    once: float
    request: float
    experts: float
    fill: float
    beyond: float


@dataclass(frozen=True, slots=True)
class Profile:
    """A model measured on one kind of GPU at one task.

    `context_tokens` is the mean context that a sequence has read in the measurements, `prompt_tokens` and
    `answer_tokens` the mean lengths, `kv_tokens` the room of the KV cache. `errors` are those of the
    fit over its points, relative: median and largest, of tokens per second and joules per token.
    """

    model: str
    task: str
    gpu: str
    gpus: int
    prompt_tokens: float
    answer_tokens: float
    context_tokens: float
    kv_tokens: int
    time_s: Coefficients
    asked_j: Coefficients
    errors: dict[str, list[float]]
    points: tuple[Point, ...]

    @property
    def key(self) -> tuple[str, str, int, str]:
        return self.model, self.gpu, self.gpus, self.task


@cache
def profiles() -> dict[tuple[str, str, int, str], Profile]:
    """All of them, by model (its Hugging Face name), GPU (h100, b200), number of GPUs and task."""
    loaded = [_profile(entry) for entry in json.loads(MEASURED.read_text())["profiles"]]
    return {profile.key: profile for profile in loaded}


def _profile(entry: dict[str, Any]) -> Profile:
    points = tuple(Point(int(point[0]), *point[1:]) for point in entry["points"])
    times, energies = Coefficients(*entry["time_s"]), Coefficients(*entry["asked_j"])
    return Profile(**{**entry, "time_s": times, "asked_j": energies, "points": points})


def find(model: str, gpu: str, gpus: int, task: str | None = None) -> Profile | None:
    """The profile of a model on these GPUs: of `task`, else of the first task. None: there is none."""
    for profile in profiles().values():
        if profile.key[:3] == (model, gpu, gpus) and task in (None, profile.task):
            return profile
    return None


@cache
def generic() -> dict[str, Any]:
    """The constants of the generic form and its errors, as the file has them."""
    loaded: dict[str, Any] = json.loads(GENERIC.read_text())
    return loaded
