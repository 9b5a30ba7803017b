"""Which diffusion models the simulator has, and by which physics each is served."""

from __future__ import annotations

from dataclasses import dataclass

from simulator.cards import GPUS
from simulator.diffusion.cards import CARDS, TINY_IMAGE, TINY_VIDEO, DiffusionCard
from simulator.diffusion.physics import Coefficients, DiffusionPhysics
from simulator.diffusion.profiles import profiles

TINY = {
    TINY_IMAGE.name: Coefficients(host_s=0.1, each_s=0.3, base_w=250.0, each_j=80.0),
    TINY_VIDEO.name: Coefficients(host_s=0.1, each_s=0.9, base_w=300.0, each_j=200.0),
}
"""For tests, on any GPU: tiny in time, 0.4 s and 180 J an image, 1 s and 500 J a video. Chosen."""


@dataclass(frozen=True, slots=True)
class DiffusionOffer:
    card: DiffusionCard
    physics: DiffusionPhysics
    source: str
    """Where the physics is from, in words."""


def known(model: str) -> bool:
    """Whether this is a diffusion model of the simulator."""
    return model in CARDS


def offer(model: str, gpu: str, gpus: int) -> DiffusionOffer:
    """A model by its profile on these GPUs. Raises KeyError, with the words, where there is none."""
    card, limit_w = CARDS[model], gpus * GPUS[gpu].tdp_w
    if model in TINY:
        return DiffusionOffer(card, DiffusionPhysics(card, TINY[model], limit_w), "chosen, for tests")
    profile = profiles().get((model, gpu, gpus))
    if profile is None:
        there = ", ".join(f"{n} x {name}" for _, name, n in _measured(model))
        raise KeyError(f"{model} was not measured on {gpus} x {gpu}, only on {there}")
    physics = DiffusionPhysics(card, profile.coefficients, limit_w)
    return DiffusionOffer(card, physics, f"profile: {model}, {gpus} x {gpu}")


def _measured(model: str) -> list[tuple[str, str, int]]:
    return sorted(key for key in profiles() if key[0] == model)


def names() -> list[str]:
    return sorted(CARDS)


def measured_on(model: str) -> list[str]:
    """Such as `2xh100`."""
    return [f"{gpus}x{gpu}" for _, gpu, gpus in _measured(model)]
