"""A step's cost from a profile: what was measured of this model on this GPU. Pure.

With R requests in the step (decoding sequences and prompt chunks), time and energy each are

    once + request R + experts (1 - (1 - k/m)^(T^0.857)) + fill min(R, 128) + beyond max(0, R - 512)

T tokens, k of m experts; all coefficients at least 0. `fill` is cost that grows only while kernels fill up,
`beyond` that of batches larger than the engine's largest CUDA graph (vLLM: 512). Power is cut off at n TDP.

Measurements at one task tell what a request costs at that task's mean context and prompt. What a token of
context and a FLOP of prefill take of that time comes from `CardPhysics` with the generic constants: together
at most PART of it, scaled down alike where they would be more. They take the same parts of the energy.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from simulator.cards import GPUS, ModelCard
from simulator.cards_measured import MEASURED
from simulator.physics import (
    Amount,
    CardPhysics,
    Host,
    Physics,
    PrefillChunk,
    Rates,
    expert_share,
    prefill_flop,
)
from simulator.profiles import Coefficients, Profile, generic

FILL = 128
GRAPH = 512
PART = 0.9
"""Largest part of a request's cost that its context and its prompt may be. Chosen."""


def generic_physics(model: ModelCard, gpu: str, gpus: int, without: str | None = None) -> CardPhysics:
    """What a step takes by the card alone, with the constants of generic.json. `gpu` is h100 or b200.

    `without` names a card whose architecture was left out when the constants were fitted: for tests of them.
    """
    constants = generic() if without is None else generic()["left_out"]["architectures"][without]["constants"]
    return CardPhysics(model, replace(GPUS[gpu], **constants["gpus"][gpu]), gpus, Host(**constants["host"]))


@dataclass(frozen=True, slots=True)
class _Parts:
    """What of a request's cost per step is its own, one token of its context, one FLOP of its prompt."""

    own: float
    kv: float
    flop: float

    def of(self, request: float) -> Rates:
        own = self.own * request
        return Rates(0.0, 0.0, own, self.kv * request, own, self.flop * request)


class FittedPhysics(Physics):
    def __init__(self, profile: Profile) -> None:
        self.model = MEASURED[profile.model]
        self._limit_w = profile.gpus * GPUS[profile.gpu].tdp_w
        self._time, self._asked = profile.time_s, profile.asked_j
        parts = _parts(profile, self.model)
        self._time_rates = parts.of(profile.time_s.request)
        self._asked_rates = parts.of(profile.asked_j.request)

    def rates(self, requests: int, tokens: int) -> tuple[Rates, Rates]:
        share = expert_share(self.model, tokens)
        fill, beyond = min(requests, FILL), max(0, requests - GRAPH)
        return (
            _at(self._time, self._time_rates, share, fill, beyond),
            _at(self._asked, self._asked_rates, share, fill, beyond),
        )

    def drawn_j(self, asked_j: Amount, time_s: Amount) -> Amount:
        limited: Amount = np.minimum(asked_j, self._limit_w * time_s)
        return limited


def _parts(profile: Profile, model: ModelCard) -> _Parts:
    """Such that the parts make up the whole at the profile's mean lengths."""
    if profile.time_s.request == 0:
        return _Parts(1.0, 0.0, 0.0)
    steps = profile.answer_tokens  # of these one is the prefill, which makes the first token
    context = profile.context_tokens * (1 - 1 / steps)
    flop = prefill_flop(model, PrefillChunk(round(profile.prompt_tokens), 0)) / steps
    card = generic_physics(model, profile.gpu, profile.gpus).time_rates
    known = (card.kv * context + card.flop * flop) / profile.time_s.request
    scale = min(1.0, PART / known) / profile.time_s.request
    whole = min(known, PART)
    return _Parts(1.0 - whole, scale * card.kv, scale * card.flop)


def _at(fitted: Coefficients, own: Rates, share: float, fill: int, beyond: int) -> Rates:
    once = fitted.once + fitted.fill * fill + fitted.beyond * beyond
    return Rates(once, fitted.experts * share, own.decode, own.kv, own.chunk, own.flop)
