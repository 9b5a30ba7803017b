"""How long prompts and answers of each task are, in tokens: the distributions of arXiv 2601.22076.

Answers: for each task and model the mean of each twentieth of them, shortest to longest, from the paper's
published histograms (`lengths.json`). Prompts are not published; their means are inferred (chat, from its
prefill energy) or assumed (all others), and spread log-normally.
"""

from __future__ import annotations

import json
import math
import random
from dataclasses import dataclass
from functools import cache
from pathlib import Path

FILE = Path(__file__).with_name("lengths.json")
ANY = "any"
"""Stands for a model that the paper has not measured at a task: the mean over those it has."""

PROMPT_SPREAD = 0.5
"""Standard deviation of the logarithm of a prompt's length. Assumed."""


@dataclass(frozen=True, slots=True)
class Task:
    """`prompt_tokens` is the mean, what images and videos become included; `media_tokens` of them are
    theirs.
    """

    name: str
    title: str
    paper_name: str
    prompt_tokens: int
    media_tokens: int = 0

    @property
    def text_tokens(self) -> int:
        """Mean length of a prompt's text."""
        return self.prompt_tokens - self.media_tokens


TASKS = {
    task.name: task
    for task in (
        Task("chat", "text conversation", "lm-arena-chat", 230),
        Task("reasoning", "problem solving with reasoning", "gpqa", 300),
        Task("code", "code completion", "sourcegraph-fim", 1000),
        Task("image-chat", "talking about images", "image-chat", 490, 256),
        Task("video-chat", "talking about videos", "video-chat", 2500, 2240),
    )
}


@cache
def _answers() -> dict[str, dict[str, list[float]]]:
    loaded: dict[str, dict[str, list[float]]] = json.loads(FILE.read_text())["tasks"]
    return loaded


def answer_tokens(task: str, model: str | None = None, mean: float | None = None) -> list[float]:
    """Mean length of each twentieth of the answers, shortest first; stretched to `mean` tokens if given.

    `model` is a Hugging Face name; one that was not measured at this task gets the mean over those that were.
    Raises KeyError for an unknown task.
    """
    models = _answers()[task]
    parts = models.get(model or ANY, models[ANY])
    factor = 1.0 if mean is None else mean * len(parts) / sum(parts)
    return [part * factor for part in parts]


def draw_answer(pick: random.Random, parts: list[float]) -> int:
    """A length in tokens, at least 2, drawn from what `answer_tokens` gives."""
    place = pick.random() * len(parts) - 0.5
    low = min(max(math.floor(place), 0), len(parts) - 2)
    return max(2, round(parts[low] + (place - low) * (parts[low + 1] - parts[low])))


def draw_prompt(pick: random.Random, mean: float) -> int:
    """A log-normal length in tokens with this mean, at least 4."""
    median = mean / math.exp(PROMPT_SPREAD**2 / 2)
    return max(4, round(pick.lognormvariate(math.log(median), PROMPT_SPREAD)))
