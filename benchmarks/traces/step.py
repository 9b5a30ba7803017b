"""Time and energy of one engine step, and every sequence's part of it: the truth.

Physics and constants are those of `simulator/physics.py`; here they work on arrays, and with the disturbances
of a messy engine. A clean step costs what `step_cost` there says.

The truth is the Shapley value of the step's energy among its sequences:
- what the step costs for any one of them (host, weights, bubbles) is shared equally;
- what a sequence adds whoever else is there (its FLOP, its KV reads, its tile's padding) is its own;
- expert reads are concave in the step's tokens: `expert_shapley`;
- padding of the batch to a CUDA graph's size is caused by all decodes alike: shared equally;
- the cap on power takes off the same part of everybody's.
`static` is split like the step's time: idle power is drawn while it lasts.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from math import comb

import numpy as np
from numpy.typing import NDArray

from benchmarks.traces.scenario import Scenario
from simulator import physics
from simulator.physics import PrefillChunk

Floats = NDArray[np.float64]

GRAPH_SIZES = (1, 2, 4, *range(8, 513, 8))
"""Batch sizes for which vLLM captures CUDA graphs; a decode-only step is padded up to the next."""

TILE_TOKENS = 128
"""A messy prefill computes whole tiles of this many tokens."""

BUBBLE_CHANCE = 0.03
BUBBLE_S = (0.003, 0.015)
STEP_NOISE = 0.05
DRIFT = 0.04
DRIFT_PERIOD_S = 300.0

DRAFT_OVERHEAD = 0.15
"""What guessing adds to a step's common cost under speculative decoding: a small draft head. Assumed."""

NODES, NODE_WEIGHTS = np.polynomial.legendre.leggauss(16)
NODES, NODE_WEIGHTS = (NODES + 1) / 2, NODE_WEIGHTS / 2
EXACT_DECODES = 16
EXACT_CHUNKS = 4


@dataclass(slots=True)
class StepTruth:
    """One step. Energies in joules over all GPUs, `energy_j` being the sum of all parts.

    A decoding sequence's part is `decode_j + kv_j x context`; static parts alike.
    """

    time_s: float
    energy_j: float
    decode_j: float
    kv_j: float
    chunk_j: list[float]
    decode_static_j: float
    kv_static_j: float
    chunk_static_j: list[float]


class StepPhysics:
    def __init__(self, scenario: Scenario, random: np.random.Generator) -> None:
        model, gpu, gpus = scenario.model, scenario.gpu, scenario.gpus
        self._model, self._messy, self._random = model, scenario.messy, random
        bandwidth, speed = gpus * gpu.bandwidth_bytes_s, gpus * gpu.flops_s
        self._per_byte_j, per_flop_j = gpu.pj_per_byte * 1e-12, gpu.pj_per_flop * 1e-12
        self._busy_w, self._cap_w = gpus * gpu.busy_power_w, gpus * gpu.cap_w
        self._idle_w = gpus * gpu.idle_power_w
        layer_s = physics.LAYER_S + (physics.LAYER_MOE_S if model.is_moe else 0.0)
        layer_s += physics.LAYER_PARALLEL_S if gpus > 1 else 0.0
        drafting = 1.0 + (DRAFT_OVERHEAD if scenario.draft_tokens else 0.0)
        weights_s = model.dense_bytes / (bandwidth * gpu.memory_efficiency)
        self._common_s = drafting * (physics.STEP_S + model.layers * layer_s + weights_s)
        self._common_j = self._busy_w * self._common_s + drafting * self._per_byte_j * model.dense_bytes
        self._experts_s = model.expert_bytes / (physics.EXPERT_EFFICIENCY * bandwidth * gpu.memory_efficiency)
        self._experts_j = self._busy_w * self._experts_s + self._per_byte_j * model.expert_bytes
        self.width = 1 + scenario.draft_tokens
        """Tokens that a decoding sequence has computed per step."""
        flop = 2.0 * model.active_params * self.width
        self._decode_s = physics.SEQUENCE_S + flop / (speed * gpu.flop_efficiency)
        self._decode_j = self._busy_w * self._decode_s + per_flop_j * flop
        self._kv_s = model.kv_bytes_per_token / (bandwidth * gpu.kv_efficiency)
        self._kv_j = self._busy_w * self._kv_s + self._per_byte_j * model.kv_bytes_per_token
        self._flop_s = 1.0 / (speed * gpu.prefill_efficiency)
        self._flop_j = self._busy_w * self._flop_s + per_flop_j

    def step(self, now_s: float, decodes: int, contexts: int, chunks: list[PrefillChunk]) -> StepTruth:
        """A step of `decodes` sequences with `contexts` tokens of context in all, and prompt chunks."""
        sequences = decodes + len(chunks)
        common_s, common_j = self._common_s, self._common_j
        decode_s, decode_j = self._decode_s, self._decode_j
        noise = 1.0
        if self._messy:
            if self._random.random() < BUBBLE_CHANCE:
                bubble_s = float(self._random.uniform(*BUBBLE_S))
                common_s, common_j = common_s + bubble_s, common_j + self._busy_w * bubble_s
            if not chunks:
                padded = GRAPH_SIZES[min(bisect_left(GRAPH_SIZES, decodes), len(GRAPH_SIZES) - 1)]
                grown = max(padded / decodes, 1.0)
                decode_s, decode_j = decode_s * grown, decode_j * grown
            noise = max(1.0 + STEP_NOISE * float(self._random.standard_normal()), 0.5)
            noise *= 1.0 + DRIFT * float(np.sin(2 * np.pi * now_s / DRIFT_PERIOD_S))
        flops = [self._flop(chunk) for chunk in chunks]
        expert, expert_chunks = self._expert_parts(decodes, chunks)
        time_s = common_s + decodes * decode_s + contexts * self._kv_s + sum(flops) * self._flop_s
        time_s += self._experts_s * (expert * decodes + sum(expert_chunks))
        each_j = common_j / sequences
        own_j = each_j + decode_j + self._experts_j * expert
        chunk_j = [
            each_j + flop * self._flop_j + self._experts_j * part
            for flop, part in zip(flops, expert_chunks, strict=True)
        ]
        asked_j = decodes * own_j + contexts * self._kv_j + sum(chunk_j)
        factor = physics.capped(asked_j / time_s, self._cap_w) * time_s / asked_j * noise
        own_s = common_s / sequences + decode_s + self._experts_s * expert
        return StepTruth(
            time_s=time_s,
            energy_j=asked_j * factor,
            decode_j=own_j * factor,
            kv_j=self._kv_j * factor,
            chunk_j=[j * factor for j in chunk_j],
            decode_static_j=self._idle_w * own_s,
            kv_static_j=self._idle_w * self._kv_s,
            chunk_static_j=[
                self._idle_w * (common_s / sequences + flop * self._flop_s + self._experts_s * part)
                for flop, part in zip(flops, expert_chunks, strict=True)
            ],
        )

    def _flop(self, chunk: PrefillChunk) -> float:
        if self._messy:
            tiles = -(-chunk.tokens // TILE_TOKENS) * TILE_TOKENS
            return physics.prefill_flop(self._model, PrefillChunk(tiles, chunk.context))
        return physics.prefill_flop(self._model, chunk)

    def _expert_parts(self, decodes: int, chunks: list[PrefillChunk]) -> tuple[float, list[float]]:
        """Parts of all expert weights that one decode and each chunk answer for."""
        if not self._model.is_moe:
            return 0.0, [0.0] * len(chunks)
        untouched = 1.0 - self._model.experts_per_token / self._model.experts

        def touched(tokens: Floats) -> Floats:
            share: Floats = 1.0 - untouched ** (tokens**physics.EXPERT_SPREAD)
            return share

        return expert_shapley(touched, decodes, self.width, [chunk.tokens for chunk in chunks])


def expert_shapley(
    cost: Callable[[Floats], Floats], decodes: int, width: int, chunks: list[int]
) -> tuple[float, list[float]]:
    """Shapley value of cost(tokens in the step): of one decode of `width` tokens, and of each chunk.

    Owen's integral over q: a player's mean gain when each other one is there with chance q. Decodes are
    alike, so what is left after the chunks is theirs in equal parts. Other chunks are gone through one by one
    while they are few, and so are up to EXACT_DECODES decodes; beyond, their number is taken at its mean.
    """
    total = float(cost(np.array([decodes * width + sum(chunks)], np.float64))[0])
    if not chunks:
        return total / decodes, []
    if decodes <= EXACT_DECODES:
        counts = np.arange(decodes + 1, dtype=np.float64)
        ways = np.array([comb(decodes, k) for k in range(decodes + 1)], np.float64)
        chance = ways * NODES[:, None] ** counts * (1 - NODES[:, None]) ** (decodes - counts)
        present = np.broadcast_to(counts * width, chance.shape)
    else:
        chance, present = np.ones((len(NODES), 1)), NODES[:, None] * (decodes * width)
    chance = chance * NODE_WEIGHTS[:, None]
    parts = []
    for position, tokens in enumerate(chunks):
        others = chunks[:position] + chunks[position + 1 :]
        if len(others) > EXACT_CHUNKS:
            base = present + NODES[:, None] * sum(others)
            parts.append(float((chance * (cost(base + tokens) - cost(base))).sum()))
            continue
        part = 0.0
        for there in product((0, 1), repeat=len(others)):
            count = sum(there)
            odds = chance * (NODES**count * (1 - NODES) ** (len(others) - count))[:, None]
            base = present + sum(t for t, is_there in zip(others, there, strict=True) if is_there)
            part += float((odds * (cost(base + tokens) - cost(base))).sum())
        parts.append(part)
    if decodes:
        return (total - sum(parts)) / decodes, parts
    return 0.0, [part * total / sum(parts) for part in parts]
