"""Time and energy of one engine step, and who caused them. Pure functions.

A step decodes one token for each of B running sequences and pushes chunks of prompts through prefill. Its
time and the energy that it asks for are sums of the same kind, so both are told by `Rates`: what any step
costs, what each request adds, what its tokens, its context and its prompt add. Where the rates come from:

- `CardPhysics` here: from a model card and a GPU alone (formulas in its docstring);
- `FittedPhysics` in `physics_fitted.py`: from measurements of this very model on this GPU.

Who caused it: the Shapley value of the step among its requests. What the step costs for any one request
(host, weights) is shared equally; what a request adds (its KV reads, its FLOP, the time they take at busy
power) is its own; expert reads go by tokens. The power limit scales all shares alike.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from simulator.cards import GpuCard, ModelCard

STEP_S = 1.43e-3
LAYER_S = 33e-6
LAYER_MOE_S = 53e-6
LAYER_PARALLEL_S = 31e-6
LAYER_FP8_S = 65e-6
SEQUENCE_S = 32e-6
EXPERT_SPREAD = 0.857
EXPERT_EFFICIENCY = 0.80
CAP_SHARPNESS = 12.0
"""Exponent of the soft minimum of power and cap. Chosen: at 80 % of the cap it takes off under 1 %."""

Floats = NDArray[np.float64]
Amount = TypeVar("Amount", float, Floats)


@dataclass(frozen=True, slots=True)
class PrefillChunk:
    """`tokens` prompt tokens computed in one step after `context` tokens that are in the KV cache already."""

    tokens: int
    context: int


@dataclass(frozen=True, slots=True)
class StepCost:
    """A step's time in seconds and energy in joules over all GPUs, and every request's part of the energy.

    `decode_j[k]` belongs to the k-th decoding sequence, `prefill_j[k]` to the k-th chunk. Their sum is
    `energy_j` up to rounding.
    """

    time_s: float
    energy_j: float
    decode_j: list[float]
    prefill_j: list[float]


@dataclass(frozen=True, slots=True)
class Rates:
    """What one step costs, in seconds or in joules: a sum of five parts.

    `common` once; `tokens` once, but caused by the step's tokens alike; `decode` per decoding sequence; `kv`
    per token of context that one reads; `chunk` per prompt chunk and `flop` per FLOP of prefill.
    """

    common: float
    tokens: float
    decode: float
    kv: float
    chunk: float
    flop: float


@dataclass(frozen=True, slots=True)
class Host:
    """Time that the GPU waits for its host, in seconds: per step, layer and sequence; and how experts spread.

    `expert_spread` is the exponent of the tokens that choose independently, `expert_efficiency` the reached
    share of the bandwidth of dense weights.
    """

    step_s: float = STEP_S
    layer_s: float = LAYER_S
    layer_moe_s: float = LAYER_MOE_S
    layer_parallel_s: float = LAYER_PARALLEL_S
    layer_fp8_s: float = LAYER_FP8_S
    sequence_s: float = SEQUENCE_S
    expert_spread: float = EXPERT_SPREAD
    expert_efficiency: float = EXPERT_EFFICIENCY


HOST = Host()
"""One fit to the public data of arXiv 2601.22076, all models together (simulator/cards.py)."""


def capped(power_w: Amount, cap_w: float) -> Amount:
    """Power in watts, levelling off smoothly at `cap_w`."""
    ratio: Amount = (1.0 + (power_w / cap_w) ** CAP_SHARPNESS) ** (-1.0 / CAP_SHARPNESS)
    return power_w * ratio


def prefill_flop(model: ModelCard, chunk: PrefillChunk) -> float:
    """Floating point operations of one prefill chunk, attention included."""
    pairs = chunk.tokens * (chunk.context + chunk.tokens / 2)
    return 2.0 * model.active_params * chunk.tokens + 4.0 * model.layers * model.attention_width * pairs


def expert_share(model: ModelCard, tokens: int, spread: float = EXPERT_SPREAD) -> float:
    """Expected share of the expert weights that `tokens` tokens touch, 0 to 1. 0 for a dense model."""
    if not model.is_moe or tokens == 0:
        return 0.0
    untouched: float = (1.0 - model.experts_per_token / model.experts) ** (tokens**spread)
    return 1.0 - untouched


class Physics(ABC):
    """What a step of one model on certain GPUs takes."""

    model: ModelCard

    @abstractmethod
    def rates(self, requests: int, tokens: int) -> tuple[Rates, Rates]:
        """Seconds, and joules asked for, of a step with so many requests (sequences, chunks) and tokens."""

    @abstractmethod
    def drawn_j(self, asked_j: Amount, time_s: Amount) -> Amount:
        """Energy that a step draws which asks for `asked_j` in `time_s`: power is limited."""

    def step(self, decode_contexts: Sequence[int], chunks: Sequence[PrefillChunk] = ()) -> StepCost:
        """Cost of one step; the k-th decoding sequence reads `decode_contexts[k]` tokens from the KV cache.

        Raises ValueError for an empty step: an idle GPU has a power, not a step.
        """
        decodes, requests = len(decode_contexts), len(decode_contexts) + len(chunks)
        if requests == 0:
            raise ValueError("a step needs at least one request")
        tokens = decodes + sum(chunk.tokens for chunk in chunks)
        flops = [prefill_flop(self.model, chunk) for chunk in chunks]
        time, asked = self.rates(requests, tokens)
        time_s = _total(time, decodes, sum(decode_contexts), len(chunks), sum(flops))
        share_j, token_j = asked.common / requests, asked.tokens / tokens
        decode_j = share_j + asked.decode + token_j
        decode = [decode_j + asked.kv * context for context in decode_contexts]
        prefill = [
            share_j + asked.chunk + flop * asked.flop + token_j * chunk.tokens
            for flop, chunk in zip(flops, chunks, strict=True)
        ]
        asked_j = sum(decode) + sum(prefill)
        energy_j = self.drawn_j(asked_j, time_s)
        scale = energy_j / asked_j
        return StepCost(time_s, energy_j, [j * scale for j in decode], [j * scale for j in prefill])

    def totals(self, decodes: int, context_sum: int, chunks: Sequence[PrefillChunk]) -> tuple[float, float]:
        """Seconds and joules of one step, as `step` gives them, without the shares."""
        tokens = decodes + sum(chunk.tokens for chunk in chunks)
        time, asked = self.rates(decodes + len(chunks), tokens)
        flop = sum(prefill_flop(self.model, chunk) for chunk in chunks)
        time_s = _total(time, decodes, context_sum, len(chunks), flop)
        return time_s, self.drawn_j(_total(asked, decodes, context_sum, len(chunks), flop), time_s)

    def decode_run(self, decodes: int, context_sum: int, steps: int) -> tuple[Floats, Floats]:
        """Seconds and joules of each of `steps` decode steps in a row; contexts grow by one in each."""
        time, asked = self.rates(decodes, decodes)
        context = context_sum + decodes * np.arange(steps, dtype=np.float64)
        time_s = time.common + time.tokens + decodes * time.decode + time.kv * context
        asked_j = asked.common + asked.tokens + decodes * asked.decode + asked.kv * context
        return time_s, self.drawn_j(asked_j, time_s)


def _total(rates: Rates, decodes: int, context_sum: int, chunks: int, flop: float) -> float:
    decode = decodes * rates.decode + context_sum * rates.kv
    return rates.common + rates.tokens + decode + chunks * rates.chunk + flop * rates.flop


class CardPhysics(Physics):
    """From the model's card and the GPU's alone. With n GPUs of bandwidth BW and speed F, L layers, A active
    parameters, a step's time is the sum of

        host       1.43 ms + L (33 us + 53 us if experts + 31 us if n > 1 + 65 us if FP8)
        weights    dense bytes / (n BW e_mem)
        experts    expert bytes (1 - (1 - k/m)^(T^0.857)) / (0.8 n BW e_mem), k of m experts, T tokens
        per decode 32 us + (KV bytes of its context + 2 state bytes) / (n BW e_kv) + 2 A / (n F e_flop)
        prefill    (2 A u + 4 L W u (c + u/2)) / (n F e_prefill) for u new tokens after c present ones,
                   W = query heads x head size (attention: two products of 2 W FLOP per pair of tokens, layer)

    and its power n P_busy + (pJ/byte x bytes + pJ/FLOP x FLOP) / time, softly held below n x cap. Form and
    constants (here those of `HOST` and `GPUS`) are a fit to the public data of arXiv 2601.22076; leave-one-
    model-out error of energy per token: median 7 % dense, 19 % mixtures. The prefill attention term is
    arithmetic, not fitted.
    """

    def __init__(self, model: ModelCard, gpu: GpuCard, gpus: int, host: Host = HOST) -> None:
        self.model = model
        self._host = host
        self._cap_w = gpus * gpu.cap_w
        bandwidth, speed = gpus * gpu.bandwidth_bytes_s, gpus * gpu.flops_s
        per_byte_j, per_flop_j = gpu.pj_per_byte * 1e-12, gpu.pj_per_flop * 1e-12
        busy_w = gpus * gpu.busy_power_w

        layer_s = host.layer_s + (host.layer_moe_s if model.is_moe else 0.0)
        layer_s += host.layer_parallel_s if gpus > 1 else 0.0
        layer_s += host.layer_fp8_s if model.precision == "fp8" else 0.0
        dense_s = model.dense_bytes / (bandwidth * gpu.memory_efficiency)
        common_s = host.step_s + model.layers * layer_s + dense_s
        expert_s = model.expert_bytes / (host.expert_efficiency * bandwidth * gpu.memory_efficiency)
        token_flop, state_bytes = 2.0 * model.active_params, 2.0 * model.state_bytes
        decode_s = host.sequence_s + token_flop / (speed * gpu.flop_efficiency)
        decode_s += state_bytes / (bandwidth * gpu.kv_efficiency)
        kv_s = model.kv_bytes_per_token / (bandwidth * gpu.kv_efficiency)
        flop_s = 1.0 / (speed * gpu.prefill_efficiency)
        self.time_rates = Rates(common_s, expert_s, decode_s, kv_s, 0.0, flop_s)
        self.asked_rates = Rates(
            common=busy_w * common_s + per_byte_j * model.dense_bytes,
            tokens=busy_w * expert_s + per_byte_j * model.expert_bytes,
            decode=busy_w * decode_s + per_flop_j * token_flop + per_byte_j * state_bytes,
            kv=busy_w * kv_s + per_byte_j * model.kv_bytes_per_token,
            chunk=0.0,
            flop=busy_w * flop_s + per_flop_j,
        )

    def rates(self, requests: int, tokens: int) -> tuple[Rates, Rates]:
        share = expert_share(self.model, tokens, self._host.expert_spread)
        return _with_experts(self.time_rates, share), _with_experts(self.asked_rates, share)

    def drawn_j(self, asked_j: Amount, time_s: Amount) -> Amount:
        return capped(asked_j / time_s, self._cap_w) * time_s


def _with_experts(rates: Rates, share: float) -> Rates:
    return Rates(rates.common, rates.tokens * share, rates.decode, rates.kv, rates.chunk, rates.flop)


def step_cost(
    model: ModelCard,
    gpu: GpuCard,
    gpus: int,
    decode_contexts: Sequence[int],
    chunks: Sequence[PrefillChunk] = (),
) -> StepCost:
    """Cost of one step by the cards alone: `CardPhysics.step`. Raises ValueError for an empty step."""
    return CardPhysics(model, gpu, gpus).step(decode_contexts, chunks)
