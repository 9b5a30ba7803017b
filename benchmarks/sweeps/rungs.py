"""A rung of a ladder: the simulator's figures through the ledger, beside the published ones."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.sweeps import steady, told
from benchmarks.sweeps.steady import Gpus
from benchmarks.sweeps.told import Books
from simulator.cards import BLOCK_TOKENS, GPUS, ModelCard, kv_blocks
from simulator.cards_measured import MEASURED
from simulator.physics_fitted import FittedPhysics, generic_physics
from simulator.profiles import Point, Profile, generic

MOST_BLOCKS = 1_000_000


@dataclass(frozen=True, slots=True)
class Rung:
    """`joules_per_token` is what the ledger says; the true one where it was not asked and `books` is None."""

    profile: Profile
    point: Point
    batch: float
    tokens_per_s: float
    joules_per_token: float
    books: Books | None

    @property
    def errors(self) -> tuple[float, float]:
        """Relative errors of tokens per second and joules per token, as shares, with their sign."""
        slow = self.tokens_per_s / self.point.tokens_per_s - 1
        return slow, self.joules_per_token / self.point.joules_per_token - 1


def measured(profile: Profile, point: Point, ledger_gpu_s: float) -> Rung:
    """By the model's own profile. Energy through the ledger if GPUs x seconds are at most `ledger_gpu_s`."""
    physics = FittedPhysics(profile)
    gpus = Gpus(profile.kv_tokens, profile.gpus * GPUS[profile.gpu].idle_power_w)
    run = steady.run(profile, physics, gpus, point.max_num_seqs)
    books, joules = None, run.joules_per_token
    if profile.gpus * run.course.time_s[-1] <= ledger_gpu_s:
        books = told.settle(run, physics.model, profile.gpus)
        joules = books.joules_per_token or joules
    return Rung(profile, point, run.batch, run.tokens_per_s, joules, books)


def by_card(profile: Profile, point: Point) -> Rung | None:
    """By the model's card alone, its architecture left out of the constants' fit.

    None where by the card the weights, or one request, do not fit into memory.
    """
    model = MEASURED[profile.model]
    blocks = kv_blocks(model, GPUS[profile.gpu], profile.gpus, MOST_BLOCKS)
    gpus = Gpus(blocks * BLOCK_TOKENS, profile.gpus * GPUS[profile.gpu].idle_power_w)
    if gpus.kv_tokens < 4 * profile.context_tokens:
        return None
    physics = generic_physics(model, profile.gpu, profile.gpus, architecture(model))
    run = steady.run(profile, physics, gpus, point.max_num_seqs)
    return Rung(profile, point, run.batch, run.tokens_per_s, run.joules_per_token, None)


def architecture(model: ModelCard) -> str:
    """The name under which generic.json left this model's architecture out."""
    for name in generic()["left_out"]["architectures"]:
        for card in MEASURED.values():
            if card.name == name and (card.total_params, card.layers) == (model.total_params, model.layers):
                return str(name)
    raise KeyError(model.name)
