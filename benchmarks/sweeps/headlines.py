"""The paper's headline results, from any set of (configuration, joules per token): published or simulated.

Each is computed twice by the same code over the same configurations, and stands beside the figure that the
paper gives over all its models, eight of which are not in the profiles.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from simulator.profiles import profiles

Key = tuple[str, str, int, str, int]
"""Model, GPU, GPUs, task, max_num_seqs."""

Energies = dict[Key, float]
"""Joules per token."""

FP8_RUNGS = {8: 1.60, 16: 1.30, 32: 1.08, 64: 0.92, 256: 0.85}
"""J/token of FP8 over BF16 in the paper, by max_num_seqs."""

OFF = 0.15
"""How far a simulated headline may be from the one of the same published points, as a share. Chosen."""


@dataclass(frozen=True, slots=True)
class Headline:
    """`of` says over how many models or pairs. `paper` is the paper's own figure, over all its models."""

    part: str
    claim: str
    paper: float | None
    points: float
    simulated: float
    of: int

    @property
    def met(self) -> bool | None:
        """None: shown, but nobody's aim. Ratios of two ladders' cheapest rungs are as noisy as those two
        points.
        """
        return abs(self.simulated / self.points - 1) <= OFF if self.part in AIMED else None


def headlines(
    points: Energies, simulated: Energies, answers: dict[Key, float], whole_ladders: bool
) -> list[Headline]:
    """All that can be computed of these configurations. `answers` are mean answers in tokens.

    Without whole ladders, those that need a ladder's cheapest rung are left out.
    """
    found: list[Headline] = []

    def add(part: str, claim: str, paper: float | None, ratios: Callable[[Energies], list[float]]) -> None:
        published, ours = ratios(points), ratios(simulated)
        if published:
            mid = (float(np.median(published)), float(np.median(ours)))
            found.append(Headline(part, claim, paper, *mid, len(published)))

    for few, many, paper in ((8, 64, 3.4), (8, 128, 4.9), (16, 128, 3.1)):
        ratios = partial(_rungs, few=few, many=many)
        add("utilisation", f"J/token at {few} over at {many} in flight", paper, ratios)
    for batch, paper in FP8_RUNGS.items():
        add("fp8", f"J/token, FP8 over BF16 at {batch}", paper, partial(_precisions, batch=batch))
    if not whole_ladders:
        return found
    for gpu, paper in (("b200", 25.2), ("h100", 23.1)):
        claim = f"J/response, reasoning over chat, {gpu.upper()}"
        add("task-type", claim, paper, partial(_tasks, answers=answers, gpu=gpu))
    add("utilisation", "J/token, dearest over cheapest of a ladder", 6.4, _whole)
    for task, paper in (
        ("chat", 0.61),
        ("reasoning", 0.61),
        ("image-chat", 0.70),
        ("video-chat", 0.68),
        ("code", 0.56),
    ):
        add("gpus", f"least J/token, B200 over H100, {task}", paper, partial(_gpus, task=task))
    return found


AIMED = ("task-type", "utilisation", "fp8")
PARTS = (*AIMED, "gpus")


def needed(part: str, key: Key) -> bool:
    """Whether a part of the headlines looks at this configuration."""
    model, _, _, task, rung = key
    match part:
        case "task-type":
            return task in ("chat", "reasoning")
        case "fp8":
            plain = model.removesuffix("-FP8")
            return rung in FP8_RUNGS and any(p[0] == f"{plain}-FP8" for p in profiles())
        case _:
            return True


def _least(energies: Energies) -> dict[tuple[str, str, str], tuple[float, Key]]:
    """The configuration with the least joules per token, by model, GPU and task."""
    least: dict[tuple[str, str, str], tuple[float, Key]] = {}
    for key, joules in energies.items():
        model, gpu, _, task, _ = key
        if (model, gpu, task) not in least or joules < least[model, gpu, task][0]:
            least[model, gpu, task] = joules, key
    return least


def _tasks(energies: Energies, answers: dict[Key, float], gpu: str) -> list[float]:
    """One ratio: mean joules per response over the models of each task."""
    per_task: dict[str, list[float]] = {}
    for (_, on, task), (joules, key) in _least(energies).items():
        if on == gpu:
            per_task.setdefault(task, []).append(joules * answers[key])
    if not {"reasoning", "chat"} <= per_task.keys():
        return []
    return [float(np.mean(per_task["reasoning"]) / np.mean(per_task["chat"]))]


def _rungs(energies: Energies, few: int, many: int) -> list[float]:
    ladders = _ladders(energies).values()
    return [ladder[few] / ladder[many] for ladder in ladders if few in ladder and many in ladder]


def _whole(energies: Energies) -> list[float]:
    return [max(ladder.values()) / min(ladder.values()) for ladder in _ladders(energies).values()]


def _ladders(energies: Energies) -> dict[tuple[str, str, int, str], dict[int, float]]:
    ladders: dict[tuple[str, str, int, str], dict[int, float]] = {}
    for (model, gpu, gpus, task, rung), joules in energies.items():
        ladders.setdefault((model, gpu, gpus, task), {})[rung] = joules
    return ladders


def _gpus(energies: Energies, task: str) -> list[float]:
    least = _least(energies)
    return [
        joules / least[model, "h100", task][0]
        for (model, gpu, of), (joules, _) in least.items()
        if of == task and gpu == "b200" and (model, "h100", task) in least
    ]


def _precisions(energies: Energies, batch: int) -> list[float]:
    """The same model, GPU, number of GPUs and task in both precisions."""
    return [
        joules / energies[plain]
        for key, joules in energies.items()
        if key[4] == batch
        and key[0].endswith("-FP8")
        and (plain := (key[0][: -len("-FP8")], *key[1:])) in energies
    ]
