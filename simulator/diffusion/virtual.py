"""A diffusion server in virtual time: the same scheduler and physics, and no clock to wait for.

Hours of serving are computed in seconds. Times are in seconds since the beginning, energies in joules over
all GPUs.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simulator.diffusion.cards import Shape
from simulator.diffusion.physics import DiffusionPhysics
from simulator.diffusion.scheduler import Job, Phase, Piece, Scheduler
from simulator.engine import ENERGY_NOISE, TIME_NOISE

Floats = NDArray[np.float64]


@dataclass(eq=False, slots=True)
class VirtualJob:
    """One request and what became of it. `leaves_s`: when its client goes away, if it does before its end.

    `begins_s` is when it was taken from the queue; None: it never ran. `ends_s` is when the server was done
    with it, or dropped it; energy by phase.
    """

    arrives_s: float
    shape: Shape
    outputs: int = 1
    leaves_s: float | None = None
    begins_s: float | None = None
    ends_s: float = 0.0
    encode_j: float = 0.0
    steps_j: float = 0.0
    decode_j: float = 0.0

    @property
    def energy_j(self) -> float:
        return self.encode_j + self.steps_j + self.decode_j

    def take(self, phase: Phase, share_j: float) -> None:
        if phase is Phase.ENCODE:
            self.encode_j += share_j
        elif phase is Phase.STEPS:
            self.steps_j += share_j
        else:
            self.decode_j += share_j


class VirtualServer:
    """The server without a clock: whoever drives it says what time it is."""

    def __init__(
        self, physics: DiffusionPhysics, max_batch: int = 1, noise: random.Random | None = None
    ) -> None:
        """`noise`: time and energy of each piece vary as they do in real time; None: not at all."""
        self._physics = physics
        self._noise = noise
        self._scheduler = Scheduler(max_batch)
        self._jobs: dict[Job, VirtualJob] = {}
        self._of: dict[int, Job] = {}

    @property
    def busy(self) -> bool:
        return self._scheduler.busy

    def arrive(self, job: VirtualJob) -> None:
        inner = Job(job.shape, job.outputs)
        self._jobs[inner], self._of[id(job)] = job, inner
        self._scheduler.add(inner)

    def leave(self, job: VirtualJob, now_s: float) -> None:
        """Its client goes away; nothing happens if the job has ended."""
        inner = self._of.get(id(job))
        if inner is None:
            return
        self._scheduler.leave(inner)
        if job.begins_s is None:
            job.ends_s = now_s
            self._forget(inner)

    def begin(self, now_s: float) -> tuple[Piece, float, float]:
        """Begin the next piece: it, its time and its energy. Raises RuntimeError with nothing to do."""
        piece = self._scheduler.plan()
        if piece is None:
            raise RuntimeError("there is nothing to do")
        cost = piece.cost(self._physics)
        longer, dearer = (self._vary(deviation) for deviation in (TIME_NOISE, ENERGY_NOISE))
        for inner, share_j in zip(piece.jobs, cost.shares_j, strict=True):
            job = self._jobs[inner]
            if job.begins_s is None:
                job.begins_s = now_s
            job.take(piece.phase, dearer * share_j)
        return piece, longer * cost.time_s, dearer * cost.energy_j

    def end(self, piece: Piece, now_s: float) -> None:
        """The piece has run."""
        for inner in self._scheduler.complete(piece):
            self._jobs[inner].ends_s = now_s
            self._forget(inner)

    def _vary(self, deviation: float) -> float:
        return 1.0 if self._noise is None else max(0.5, self._noise.gauss(1.0, deviation))

    def _forget(self, inner: Job) -> None:
        del self._of[id(self._jobs.pop(inner))]


@dataclass(frozen=True, slots=True)
class Course:
    """What the GPUs did: cumulative energy is linear between the points; `idle_j` of it nobody caused."""

    jobs: list[VirtualJob]
    time_s: Floats
    energy_j: Floats
    idle_j: float


def run(
    physics: DiffusionPhysics,
    jobs: Iterable[VirtualJob],
    *,
    max_batch: int = 1,
    idle_power_w: float = 0.0,
    tail_s: float = 0.0,
    noise: random.Random | None = None,
) -> Course:
    """Serve all jobs to their end, then idle for `tail_s`. `idle_power_w` is that of all GPUs together."""
    arriving = sorted(jobs, key=lambda job: job.arrives_s)
    leaving = [(job.leaves_s, k, job) for k, job in enumerate(arriving) if job.leaves_s is not None]
    happening = sorted([(job.arrives_s, -1, job) for job in arriving] + leaving, key=lambda e: e[:2])
    server = VirtualServer(physics, max_batch, noise)
    points = [(0.0, 0.0)]
    now_s = energy_j = idle_j = 0.0
    position = 0

    def idle(until_s: float) -> None:
        nonlocal now_s, energy_j, idle_j
        idle_j += idle_power_w * (until_s - now_s)
        energy_j += idle_power_w * (until_s - now_s)
        now_s = until_s
        points.append((now_s, energy_j))

    while position < len(happening) or server.busy:
        while position < len(happening) and happening[position][0] <= now_s:
            time_s, kind, job = happening[position]
            if kind < 0:
                server.arrive(job)
            else:
                server.leave(job, time_s)
            position += 1
        if not server.busy:
            if position < len(happening):
                idle(max(now_s, happening[position][0]))
            continue
        piece, took_s, drew_j = server.begin(now_s)
        now_s, energy_j = now_s + took_s, energy_j + drew_j
        points.append((now_s, energy_j))
        server.end(piece, now_s)
    idle(now_s + tail_s)
    time_points, energy_points = np.array(points).T
    return Course(arriving, time_points, energy_points, idle_j)
