"""A batch size of a diffusion profile: the simulator's joules through the ledger, beside the published ones.

As in the paper's runs (xDiT, fixed batches) batches follow each other, each of so many requests that come at
once; here until MEASURED_S are full. Joules per image or video are what the ledger gave to all requests.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil

from benchmarks.diffusions import told
from benchmarks.diffusions.told import Curve
from simulator.cards import GPUS
from simulator.diffusion import catalog
from simulator.diffusion.physics import batch
from simulator.diffusion.profiles import DiffusionProfile, Point
from simulator.diffusion.virtual import VirtualJob, run

MEASURED_S = 20.0
QUIET_S = 5.0
"""Idle before and after."""


@dataclass(frozen=True, slots=True)
class Rung:
    """`joules_each` is what the ledger says; the true one where it was not asked and `balanced` is None."""

    profile: DiffusionProfile
    point: Point
    latency_s: float
    joules_each: float
    balanced: bool | None

    @property
    def errors(self) -> tuple[float, float]:
        """Relative errors of time and joules, with their sign."""
        return self.latency_s / self.point.latency_s - 1, self.joules_each / self.point.joules_each - 1


def climb(profile: DiffusionProfile, point: Point, ledger_gpu_s: float) -> Rung:
    """Through the ledger if GPUs x seconds are at most `ledger_gpu_s`."""
    offer = catalog.offer(*profile.key)
    latency_s, energy_j = batch(offer.card, profile.coefficients, offer.physics.limit_w, point.batch)
    if profile.gpus * latency_s > ledger_gpu_s:
        return Rung(profile, point, latency_s, energy_j / point.batch, None)
    one = VirtualJob(0.0, offer.card.shape)
    jobs = [
        replace(one, arrives_s=QUIET_S + number * (latency_s + 2 * told.WAY_S))
        for number in range(ceil(MEASURED_S / latency_s))
        for _ in range(point.batch)
    ]
    idle_w = profile.gpus * GPUS[profile.gpu].idle_power_w
    tail_s = QUIET_S + 2 * told.POLL_PART * latency_s  # the end of a long job is seen late
    course = run(offer.physics, jobs, max_batch=point.batch, idle_power_w=idle_w, tail_s=tail_s)
    curve = Curve(course.time_s, course.energy_j, profile.gpus)
    kind, fps = offer.card.kind, offer.card.fps
    done = told.settle(told.tell(jobs, kind, fps), curve, [told.declared(profile.gpus, point.batch)])
    each_j = sum(done.joules(f"m{number}") for number in range(len(jobs))) / len(jobs)
    took_s = sum(job.ends_s - job.arrives_s for job in jobs) / len(jobs)
    return Rung(profile, point, took_s, each_j, done.balanced and len(done.records) == len(jobs))
