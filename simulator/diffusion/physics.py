"""Time and energy of a diffusion server's work, and who caused it. Pure.

A job of S steps is worked off in three phases: `encode` its text, S times `step`, `decode` to pixels. Work is
counted in units of the reference job: one image or video of the model's own shape, all phases together, is 1.
Of it, each phase has the part that the card's arithmetic gives it. A phase with u units takes

    encode, decode   t = each_s u
    step             t = ((host_s / S0)^p + (each_s u)^p)^(1/p)        S0: the reference job's steps

    all              E = min(base_w t + each_j u, n TDP t)

`host_s` is what the launches of the steps of one job take however little there is to compute, `p` how sharply
it gives way to arithmetic (1: they add up). base_w and each_j tell energy that goes with time from energy
that goes with work. A reference batch of B then takes close to host_s + each_s B, and B each_j joules more
than base_w for that time: affine in B where p is 1, as the published measurements nearly are (arXiv
2601.22076).

Who caused it: what a step costs for any one job is shared equally, what grows with the work goes by work.
That is the Aumann-Shapley price of the formula above, exact for jobs of equal size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from simulator.diffusion.cards import ENCODE_FLOP, DiffusionCard, Shape


@dataclass(frozen=True, slots=True)
class Coefficients:
    """Of the formulas above, over all GPUs: seconds, watts, joules, and the exponent p."""

    host_s: float
    each_s: float
    base_w: float
    each_j: float
    sharpness: float = 1.0


@dataclass(frozen=True, slots=True)
class Cost:
    """Time in seconds and energy in joules over all GPUs; `shares_j[k]` is the k-th job's part of it."""

    time_s: float
    energy_j: float
    shares_j: list[float]


@dataclass(frozen=True, slots=True)
class Work:
    """One image's or video's phases in units of the reference job; `step` is one step."""

    encode: float
    step: float
    decode: float


class DiffusionPhysics:
    def __init__(self, card: DiffusionCard, coefficients: Coefficients, limit_w: float) -> None:
        """`limit_w` is the power limit of all GPUs together."""
        self.card = card
        self.coefficients = coefficients
        self.limit_w = limit_w
        self._reference = reference_flop(card)
        self._host_s = coefficients.host_s / card.shape.steps

    def work(self, shape: Shape) -> Work:
        """The phases of one image or video of this shape."""
        return Work(
            ENCODE_FLOP / self._reference,
            self.card.step_flop(shape) / self._reference,
            self.card.decode_flop(shape) / self._reference,
        )

    def step(self, units: Sequence[float]) -> Cost:
        """One step of jobs with so many units each."""
        whole, p = sum(units), self.coefficients.sharpness
        arithmetic_s = self.coefficients.each_s * whole
        time_s = (self._host_s**p + arithmetic_s**p) ** (1 / p)
        return self._cost(time_s, self._host_s, units)

    def phase(self, units: Sequence[float]) -> Cost:
        """Encoding or decoding, of jobs with so many units each."""
        return self._cost(self.coefficients.each_s * sum(units), 0.0, units)

    def _cost(self, time_s: float, any_s: float, units: Sequence[float]) -> Cost:
        """`any_s` of the time would be taken for any one of the jobs."""
        c, whole = self.coefficients, sum(units)
        asked_j = c.base_w * time_s + c.each_j * whole
        energy_j = min(asked_j, self.limit_w * time_s)
        scale = energy_j / asked_j
        any_j = c.base_w * any_s / len(units)
        grows_j = c.base_w * (time_s - any_s) + c.each_j * whole
        return Cost(time_s, energy_j, [scale * (any_j + grows_j * u / whole) for u in units])


def reference_flop(card: DiffusionCard) -> float:
    """Of one image or video of the card's own shape, all phases."""
    return ENCODE_FLOP + card.shape.steps * card.step_flop(card.shape) + card.decode_flop(card.shape)


def stepping(card: DiffusionCard) -> float:
    """Which part of the reference job its steps are."""
    return card.shape.steps * card.step_flop(card.shape) / reference_flop(card)


def batch(card: DiffusionCard, coefficients: Coefficients, limit_w: float, size: int) -> tuple[float, float]:
    """Seconds and joules of a batch of `size` reference jobs, worked off from their beginning to their
    end."""
    physics = DiffusionPhysics(card, coefficients, limit_w)
    work = physics.work(card.shape)
    costs = [
        (1, physics.phase([work.encode] * size)),
        (card.shape.steps, physics.step([work.step] * size)),
        (1, physics.phase([work.decode] * size)),
    ]
    return sum(n * cost.time_s for n, cost in costs), sum(n * cost.energy_j for n, cost in costs)
