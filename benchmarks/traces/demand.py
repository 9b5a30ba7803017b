"""The requests that arrive: Poisson, a mix of tasks, lengths spread log-normally."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from benchmarks.traces.scenario import Scenario


class Task(NamedTuple):
    """Median and log-normal spread of prompt and output, in tokens, and the most of either."""

    prompt: float
    prompt_spread: float
    most_prompt: int
    output: float
    output_spread: float
    most_output: int


TASKS = {
    "chat": Task(230, 0.9, 4_000, 350, 0.7, 2_000),
    "rag": Task(4_000, 0.5, 12_000, 180, 0.6, 800),
    "reasoning": Task(300, 0.6, 2_000, 1_800, 0.5, 5_000),
}
"""Chat: a prompt of about 230 tokens as in the public data of arXiv 2601.22076. The rest are round figures,
the reasoning shorter than its 6,988 output tokens so that a run of minutes sees whole answers."""

OWN_TENANT = 0.7
"""Of each task's requests this share comes from a tenant that sends nothing else; the rest share `mixed`."""

CACHED_PART = (0.4, 0.95)
BLOCK_TOKENS = 16


@dataclass(slots=True)
class Request:
    """What a client asks, and in `sequences` how many tokens each of its answers will have."""

    arrived_s: float
    task: str
    tenant: str
    prompt_tokens: int
    cached_tokens: int
    outputs: list[int]
    streamed: bool
    seen: bool
    """Whether it passes the proxy."""
    body_bytes: int


def demand(scenario: Scenario, begin_s: float, end_s: float) -> list[Request]:
    """The requests of [begin_s, end_s) in the order of their arrival."""
    random = np.random.default_rng(scenario.seed)
    requests: list[Request] = []
    now_s = begin_s
    names = list(scenario.mix)
    while (now_s := now_s + random.exponential(1.0 / scenario.rate_per_s)) < end_s:
        name = names[int(random.choice(len(names), p=[scenario.mix[n] for n in names]))]
        task = TASKS[name]
        prompt = _length(random, task.prompt, task.prompt_spread, task.most_prompt)
        outputs = [
            _length(random, task.output, task.output_spread, task.most_output)
            for _ in range(scenario.sequences)
        ]
        cached = 0
        if random.random() < scenario.cached_requests:
            cached = int(prompt * random.uniform(*CACHED_PART)) // BLOCK_TOKENS * BLOCK_TOKENS
        requests.append(
            Request(
                arrived_s=now_s,
                task=name,
                tenant=name if random.random() < OWN_TENANT else "mixed",
                prompt_tokens=prompt,
                cached_tokens=cached,
                outputs=outputs,
                streamed=bool(random.random() >= scenario.unstreamed),
                seen=bool(random.random() >= scenario.bypass),
                body_bytes=200 + int(prompt * random.uniform(3.6, 4.6)),
            )
        )
    return requests


def _length(random: np.random.Generator, median: float, spread: float, most: int) -> int:
    return int(min(max(random.lognormal(np.log(median), spread), 2), most))
