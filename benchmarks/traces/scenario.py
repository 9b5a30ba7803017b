"""What is run: one frozen value per scenario, with its own seed.

Aims are those of the project. `DENSE` holds for clean runs of a dense model where everything is told, `HARD`
for mixtures of experts, disturbed engines, and where something that matters is not told in time. A scenario
without an aim is one whose error nobody can mend: it is shown, and only its books are judged.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from simulator.cards import H100, LLAMA_8B, LLAMA_70B, QWEN_30B_A3B, GpuCard, ModelCard


class Aim(NamedTuple):
    """Largest errors of a request's joules allowed, as shares: median, nine in ten, worst tenant's sum."""

    median: float
    p90: float
    tenant: float


DENSE = Aim(0.05, 0.20, 0.10)
HARD = Aim(0.10, 0.30, 0.10)

MIXED = {"chat": 0.6, "rag": 0.25, "reasoning": 0.15}
"""Shares of the tasks among the requests (demand.TASKS)."""


@dataclass(frozen=True, slots=True)
class Scenario:
    name: str
    title: str
    seed: int
    rate_per_s: float
    """Mean arrivals per second (Poisson)."""
    aim: Aim | None = DENSE
    model: ModelCard = LLAMA_8B
    gpu: GpuCard = H100
    gpus: int = 1
    mix: dict[str, float] = field(default_factory=lambda: dict(MIXED))
    max_num_seqs: int = 128
    max_num_batched_tokens: int = 2048
    messy: bool = False
    """CUDA-graph padding, prefill tiles, bubbles, 5 % noise per step, 4 % drift."""
    cached_requests: float = 0.0
    """Share of the requests whose prompt is partly in the prefix cache; told with the usage at the end."""
    unstreamed: float = 0.0
    """Share of the requests whose answer comes in one piece."""
    engine_times: bool = False
    """Whether the engine tells each request's times at its end (vLLM: --enable-per-request-metrics)."""
    draft_tokens: int = 0
    """Tokens guessed per step (speculative decoding); one stream event brings all that were right."""
    bypass: float = 0.0
    """Share of the requests that reach the engine without passing the proxy."""
    counters: bool = False
    """Whether the engine's own counters are polled each second (vLLM's /metrics)."""
    sequences: int = 1
    """`n` of every request."""
    counter_period_s: float = 0.1
    longer: float = 1.0
    """Times as long as the others: few requests arrive at low load."""


SCENARIOS = (
    Scenario("8b-low", "8B, low load", 71_001, 0.4, longer=3),
    Scenario("8b-half", "8B, half load", 71_002, 4.0),
    Scenario("8b-full", "8B, saturated", 71_003, 7.5),
    Scenario("70b-full", "70B on 4 GPUs, saturated", 71_004, 4.0, model=LLAMA_70B, gpus=4, max_num_seqs=64),
    Scenario("moe-low", "MoE on 2 GPUs, low load", 71_005, 0.4, HARD, model=QWEN_30B_A3B, gpus=2, longer=3),
    Scenario("moe-half", "MoE on 2 GPUs, half load", 71_006, 4.0, HARD, model=QWEN_30B_A3B, gpus=2),
    Scenario("messy-8b-half", "messy 8B, half load", 71_007, 4.0, HARD, messy=True),
    Scenario("messy-8b-full", "messy 8B, saturated", 71_008, 7.5, HARD, messy=True),
    Scenario(
        "messy-moe-half", "messy MoE, half load", 71_009, 4.0, HARD, model=QWEN_30B_A3B, gpus=2, messy=True
    ),
    Scenario("8b-cache", "8B, half, 70 % partly cached", 71_010, 4.0, cached_requests=0.7),
    Scenario("8b-20ms", "8B, half, 20 ms counter", 71_011, 4.0, counter_period_s=0.02),
    Scenario("8b-n2", "8B, half, n = 2", 71_012, 2.2, sequences=2),
    Scenario("8b-draft", "8B, half, speculative", 71_013, 6.0, HARD, draft_tokens=3),
    Scenario(
        "8b-pieces-times",
        "8B, half, half unstreamed, times",
        71_014,
        4.0,
        HARD,
        unstreamed=0.5,
        engine_times=True,
    ),
    Scenario("8b-pieces", "8B, half, half unstreamed, no times", 71_014, 4.0, HARD, unstreamed=0.5),
    Scenario("8b-bypass", "8B, half, 20 % bypass, no counters", 71_016, 4.0, None, bypass=0.2),
    Scenario("8b-counted", "8B, half, 20 % bypass, counters", 71_016, 4.0, HARD, bypass=0.2, counters=True),
    Scenario(
        "8b-pieces-counted",
        "8B, half, half unstreamed, counters",
        71_014,
        4.0,
        HARD,
        unstreamed=0.5,
        engine_times=True,
        counters=True,
    ),
)


def named(name: str) -> Scenario:
    """The scenario with this name. Raises KeyError."""
    return {scenario.name: scenario for scenario in SCENARIOS}[name]
