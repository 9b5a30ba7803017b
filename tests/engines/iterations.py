"""vLLM's own word on every engine step: the lines of `--enable-logging-iteration-details`.

vLLM's usual log tells the time to the second; `log_settings` makes it tell microseconds. A line is written
where the step's tokens are handed on, so a step lies in the `elapsed_ms` before it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

LINE: Final = re.compile(
    r"(?P<t_s>\d+\.\d{6}) .*Iteration\((?P<index>\d+)\): "
    r"(?P<prompts>\d+) context requests, (?P<prompt_tokens>\d+) context tokens, "
    r"(?P<decodes>\d+) generation requests, (?P<decoded>\d+) generation tokens, "
    r"iteration elapsed time: (?P<elapsed_ms>[\d.]+) ms(?! \(dummy\))"
)


@dataclass(frozen=True, slots=True)
class Iteration:
    """One engine step over [t0_us, t1_us) in UTC microseconds.

    `prompt_tokens` were computed for prompts, `decoded` tokens generated after the first of their answer.
    """

    index: int
    t0_us: int
    t1_us: int
    prompts: int
    prompt_tokens: int
    decodes: int
    decoded: int


@dataclass(frozen=True, slots=True)
class Steps:
    """What the engine did in a stretch of time; a step across its edge counts by its part inside."""

    steps: float
    prompt_tokens: float
    decoded: float


def log_settings() -> dict[str, Any]:
    """For VLLM_LOGGING_CONFIG_PATH: vLLM's log on its standard output, each line with the time in seconds."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"timed": {"format": "%(created).6f %(levelname)s %(message)s"}},
        "handlers": {
            "out": {"class": "logging.StreamHandler", "formatter": "timed", "stream": "ext://sys.stdout"}
        },
        "loggers": {"vllm": {"handlers": ["out"], "level": "INFO", "propagate": False}},
    }


def read_iterations(log: Path) -> list[Iteration]:
    """The steps in the log, in order. Raises ValueError where one is missing between them."""
    found = [_iteration(match) for match in LINE.finditer(log.read_text(errors="replace"))]
    indices = [iteration.index for iteration in found]
    if not indices or indices != list(range(indices[0], indices[0] + len(indices))):
        raise ValueError(f"{log} does not hold every iteration once and in order")
    return found


def _iteration(match: re.Match[str]) -> Iteration:
    t1_us = round(float(match["t_s"]) * 1e6)
    return Iteration(
        index=int(match["index"]),
        t0_us=t1_us - round(float(match["elapsed_ms"]) * 1000),
        t1_us=t1_us,
        prompts=int(match["prompts"]),
        prompt_tokens=int(match["prompt_tokens"]),
        decodes=int(match["decodes"]),
        decoded=int(match["decoded"]),
    )


def within(iterations: Sequence[Iteration], t0_us: int, t1_us: int) -> Steps:
    """What was done in [t0_us, t1_us)."""
    steps = prompt_tokens = decoded = 0.0
    for it in iterations:
        part = (min(it.t1_us, t1_us) - max(it.t0_us, t0_us)) / max(it.t1_us - it.t0_us, 1)
        if part > 0:
            steps += part
            prompt_tokens += part * it.prompt_tokens
            decoded += part * it.decoded
    return Steps(steps, prompt_tokens, decoded)
