"""A diffusion server's heart in real time: works off its jobs and writes their energy to the board.

A piece of work (text encoding, one step, decoding) is one piece of the curve, known when it begins. Where
another engine uses the same GPUs, pieces are cut into slices of SLICE_S, so that the other gets its turns.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil

from simulator.diffusion.metrics import DiffusionMetrics
from simulator.diffusion.physics import DiffusionPhysics
from simulator.diffusion.scheduler import Job, Piece, Scheduler, State
from simulator.diffusion.truth import MediaAccount
from simulator.engine import ENERGY_NOISE, TIME_NOISE
from simulator.gpu.load import STALL_US, Curve, Load, Turns, now_us
from simulator.truth import Truth, split

SLICE_S = 0.01


@dataclass(eq=False, slots=True)
class MediaRun:
    """A job in the engine. `ended` is set when the server is done with it, one way or another."""

    job: Job
    account: MediaAccount
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    ended_s: float | None = None
    """When that was, in seconds of UTC."""

    @property
    def queue_ms(self) -> float:
        """What vLLM-Omni calls the wait for the queue: next to nothing, whatever the job waited for."""
        return 0.4

    @property
    def generation_ms(self) -> float:
        """Its generation time: from its arrival, its wait included (vLLM-Omni 0.30 as observed)."""
        account = self.account
        return ((account.finished_us or now_us()) - account.arrived_us) / 1000


class DiffusionEngine:
    """Serves jobs on the GPUs `gpus` of the curve. One event loop's; `run()` is its task."""

    def __init__(
        self,
        *,
        physics: DiffusionPhysics,
        curve: Curve,
        gpus: Sequence[int],
        metrics: DiffusionMetrics,
        max_batch: int = 1,
        seed: int = 0,
        stall_us: int = STALL_US,
        turns: Turns | None = None,
    ) -> None:
        self.physics = physics
        self.metrics = metrics
        self.truth: Truth[MediaAccount] = Truth()
        self._scheduler = Scheduler(max_batch)
        self._load = Load(curve, gpus, stall_us)
        self._turns = turns or Turns()
        self._random = random.Random(seed)
        self._runs: dict[Job, MediaRun] = {}
        self._work = asyncio.Event()

    @property
    def curve_uj(self) -> int:
        """Energy of the curve since this engine came up, over all its GPUs, without another engine's."""
        return self._load.curve_uj

    @property
    def curve_end_us(self) -> int:
        """Monotonic time of the last point written; it lies ahead while a piece runs."""
        return self._load.end_us

    def submit(self, run: MediaRun) -> None:
        run.account.arrived_us = now_us()
        self.truth.open(run.account)
        self._runs[run.job] = run
        self._scheduler.add(run.job)
        self._look(between=False)
        self._work.set()

    def leave(self, run: MediaRun) -> None:
        """Nobody waits for it any more: dropped if it waits, worked off to its end if it runs."""
        if run.job not in self._runs or run.job.left:
            return
        self._scheduler.leave(run.job)
        self.metrics.left()
        if run.job.state is State.DROPPED:
            self._close(run, "dropped", now_us())
        self._look(between=False)

    async def run(self) -> None:
        """Serve until cancelled."""
        idle = True
        while True:
            piece = self._scheduler.plan()
            if piece is None:
                idle = True
                self._work.clear()
                await self._work.wait()
                continue
            await self._do(piece, idle)
            idle = False
            for job in self._scheduler.complete(piece):
                run = self._runs[job]
                self._close(run, "aborted" if job.left else "ok", self._load.end_us)
                if not job.left:
                    self.metrics.finished(run)
                self._look(between=True)

    async def _do(self, piece: Piece, after_pause: bool) -> None:
        """Run a piece, slice by slice: the curve, the jobs, the clock."""
        cost = piece.cost(self.physics)
        time_us = max(1, round(1e6 * cost.time_s * self._noise(TIME_NOISE)))
        energy_uj = round(1e6 * cost.energy_j * self._noise(ENERGY_NOISE))
        slices = ceil(time_us / 1e6 / SLICE_S) if self._turns.shared else 1
        even = [1.0] * slices
        for slice_us, slice_uj in zip(split(time_us, even), split(energy_uj, even), strict=True):
            async with self._turns:
                start_us = self._load.next_us(after_pause)
                after_pause = False
                self._begin(piece, start_us)
                self._load.draw(start_us, slice_us, slice_uj)
                self.truth.idle_uj = self._load.idle_uj
                for job, share_uj in zip(piece.jobs, split(slice_uj, cost.shares_j), strict=True):
                    self._runs[job].account.take(piece.phase, share_uj)
                await asyncio.sleep(max(0, self._load.end_us - now_us()) / 1e6)
        self.truth.steps += 1

    def _begin(self, piece: Piece, start_us: int) -> None:
        for job in piece.jobs:
            run = self._runs[job]
            if run.account.scheduled_us is None:
                run.account.scheduled_us = max(start_us, run.account.arrived_us)
                run.begun.set()

    def _noise(self, deviation: float) -> float:
        return max(0.5, self._random.gauss(1.0, deviation))

    def _close(self, run: MediaRun, state: str, t_us: int) -> None:
        del self._runs[run.job]
        run.account.state = state
        run.account.finished_us, run.ended_s = t_us, time.time()
        run.ended.set()

    def _look(self, between: bool) -> None:
        """What the gauges show until the next arrival or end: at an end the next job is not taken in yet.

        Jobs that nobody waits for are not counted, though they run.
        """
        here = [job for job in self._runs if not job.left]
        running = 0 if between else max(sum(job.state is State.RUNNING for job in here), min(len(here), 1))
        self.metrics.look(running, len(here) - running)
