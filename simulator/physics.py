"""Time and energy of one engine step, and who caused them. Pure functions.

A step decodes one token for each of B running sequences and pushes a chunk of prompt tokens through prefill.
With n GPUs of bandwidth BW and speed F, L layers, A active parameters, its time is the sum of

    host       1.43 ms + L (33 us + 53 us if a mixture of experts + 31 us if n > 1)
    weights    dense bytes / (n BW e_mem)
    experts    expert bytes (1 - (1 - k/m)^(T^0.857)) / (0.8 n BW e_mem), k of m experts, T tokens in the step
    per decode 32 us + KV bytes of its context / (n BW e_kv) + 2 A / (n F e_flop)
    prefill    (2 A u + 4 L W u (c + u/2)) / (n F e_prefill) for u new tokens after c present ones,
               W = query heads x head size (attention: two products of 2 W FLOP per pair of tokens and layer)

and its power n P_busy + (pJ/byte x bytes + pJ/FLOP x FLOP) / time, softly held below n x cap. The form and
its constants are a fit to the public data of arXiv 2601.22076 (see cards.py); leave-one-model-out error of
energy per token: median 7 % dense, 19 % mixtures. The prefill attention term is arithmetic, not fitted.

Who caused it: the Shapley value of the step among its requests. What the step costs for any one request
(host, weights) is shared equally; what a request adds (its KV reads, its FLOP, the time they take at busy
power) is its own; expert reads go by tokens. The soft cap scales all shares alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from simulator.cards import GpuCard, ModelCard

STEP_S = 1.43e-3
LAYER_S = 33e-6
LAYER_MOE_S = 53e-6
LAYER_PARALLEL_S = 31e-6
SEQUENCE_S = 32e-6
EXPERT_SPREAD = 0.857
EXPERT_EFFICIENCY = 0.80
CAP_SHARPNESS = 12.0
"""Exponent of the soft minimum of power and cap. Chosen: at 80 % of the cap it takes off under 1 %."""


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


def capped(power_w: float, cap_w: float) -> float:
    """Power in watts, levelling off smoothly at `cap_w`."""
    ratio: float = (1.0 + (power_w / cap_w) ** CAP_SHARPNESS) ** (-1.0 / CAP_SHARPNESS)
    return power_w * ratio


def prefill_flop(model: ModelCard, chunk: PrefillChunk) -> float:
    """Floating point operations of one prefill chunk, attention included."""
    pairs = chunk.tokens * (chunk.context + chunk.tokens / 2)
    return 2.0 * model.active_params * chunk.tokens + 4.0 * model.layers * model.attention_width * pairs


def expert_share(model: ModelCard, tokens: int) -> float:
    """Expected share of the expert weights that `tokens` tokens touch, 0 to 1. 0 for a dense model."""
    if not model.is_moe or tokens == 0:
        return 0.0
    untouched: float = (1.0 - model.experts_per_token / model.experts) ** (tokens**EXPERT_SPREAD)
    return 1.0 - untouched


def step_cost(
    model: ModelCard,
    gpu: GpuCard,
    gpus: int,
    decode_contexts: Sequence[int],
    chunks: Sequence[PrefillChunk] = (),
) -> StepCost:
    """Cost of one step; the k-th decoding sequence reads `decode_contexts[k]` tokens from the KV cache.

    Raises ValueError for an empty step: an idle GPU has a power, not a step.
    """
    requests = len(decode_contexts) + len(chunks)
    if requests == 0:
        raise ValueError("a step needs at least one request")
    bandwidth = gpus * gpu.bandwidth_bytes_s
    speed = gpus * gpu.flops_s
    joule_per_byte = gpu.pj_per_byte * 1e-12
    joule_per_flop = gpu.pj_per_flop * 1e-12
    busy_w = gpus * gpu.busy_power_w

    per_layer_s = LAYER_S + (LAYER_MOE_S if model.is_moe else 0.0) + (LAYER_PARALLEL_S if gpus > 1 else 0.0)
    common_s = STEP_S + model.layers * per_layer_s + model.dense_bytes / (bandwidth * gpu.memory_efficiency)
    common_j = busy_w * common_s + joule_per_byte * model.dense_bytes

    tokens = len(decode_contexts) + sum(chunk.tokens for chunk in chunks)
    expert_bytes = model.expert_bytes * expert_share(model, tokens)
    experts_s = expert_bytes / (EXPERT_EFFICIENCY * bandwidth * gpu.memory_efficiency)
    expert_j_per_token = (busy_w * experts_s + joule_per_byte * expert_bytes) / tokens

    token_flop = 2.0 * model.active_params
    decode_s = SEQUENCE_S + token_flop / (speed * gpu.flop_efficiency)
    kv_s = model.kv_bytes_per_token / (bandwidth * gpu.kv_efficiency)
    share_j = common_j / requests
    decode_j = share_j + busy_w * decode_s + joule_per_flop * token_flop + expert_j_per_token
    kv_j = busy_w * kv_s + joule_per_byte * model.kv_bytes_per_token
    prefill_s_per_flop = 1.0 / (speed * gpu.prefill_efficiency)
    prefill_j_per_flop = busy_w * prefill_s_per_flop + joule_per_flop

    flops = [prefill_flop(model, chunk) for chunk in chunks]
    time_s = (
        common_s
        + experts_s
        + len(decode_contexts) * decode_s
        + sum(decode_contexts) * kv_s
        + sum(flops) * prefill_s_per_flop
    )
    decode = [decode_j + kv_j * context for context in decode_contexts]
    prefill = [
        share_j + flop * prefill_j_per_flop + expert_j_per_token * chunk.tokens
        for flop, chunk in zip(flops, chunks, strict=True)
    ]
    asked_j = sum(decode) + sum(prefill)
    energy_j = capped(asked_j / time_s, gpus * gpu.cap_w) * time_s
    scale = energy_j / asked_j
    return StepCost(time_s, energy_j, [j * scale for j in decode], [j * scale for j in prefill])
