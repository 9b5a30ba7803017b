"""Which models the simulator has, and by which physics each is served."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from simulator import cards
from simulator.card_file import read_card
from simulator.cards import BLOCK_TOKENS, GPUS, MODELS, ModelCard
from simulator.cards_measured import MEASURED
from simulator.physics import CardPhysics, Physics
from simulator.physics_fitted import FittedPhysics, generic_physics
from simulator.profiles import find


@dataclass(frozen=True, slots=True)
class Offer:
    """A model on certain GPUs. `kv_blocks` may be 0 or less: it does not fit."""

    card: ModelCard
    physics: Physics
    kv_blocks: int
    source: str
    """Where the physics is from, in words."""


def offer(model: str, gpu: str, gpus: int, task: str | None = None) -> Offer:
    """The model with this name: one of `MODELS`, or a measured one by its Hugging Face name.

    A measured model is served by its profile of `task` (None: the first), or by its card alone on GPUs for
    which there is none. Raises KeyError for an unknown name or a task without a profile.
    """
    if model in MODELS:
        card = MODELS[model]
        blocks = cards.kv_blocks(card, GPUS[gpu], gpus)
        return Offer(card, CardPhysics(card, GPUS[gpu], gpus), blocks, "card alone, built-in constants")
    card = MEASURED[model]
    profile = find(model, gpu, gpus, task)
    if profile is not None:
        source = f"profile: {model}, {gpus} x {gpu}, {profile.task}"
        return Offer(card, FittedPhysics(profile), profile.kv_tokens // BLOCK_TOKENS, source)
    if task is not None:
        raise KeyError(f"{model} was not measured at {task} on {gpus} x {gpu}")
    return by_card(card, gpu, gpus)


def by_card(card: ModelCard, gpu: str, gpus: int) -> Offer:
    """Any model by its card alone, with the constants fitted to all measured models."""
    blocks = cards.kv_blocks(card, GPUS[gpu], gpus)
    return Offer(
        card, generic_physics(card, gpu, gpus), blocks, "card alone, constants of all measured models"
    )


def from_file(path: Path, gpu: str, gpus: int) -> Offer:
    """The model of a card file (simulator/card_file.py). Raises CardError."""
    return by_card(read_card(path), gpu, gpus)


def names() -> list[str]:
    return [*sorted(MODELS), *sorted(MEASURED)]
