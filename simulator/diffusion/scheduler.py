"""What a diffusion server works on next: its queue, its batch, a job's phases. Pure.

Jobs are taken in turn. With `max_batch` 1 (as most diffusion servers) one job runs at a time, whatever number
of images it asks for; with more, jobs of the same size run side by side, up to `max_batch` images together.
One may join between any two steps and leaves when its own steps are done; a job of another size at the head
of the queue waits until the batch is empty.

    plan() -> Piece ...it runs... complete(piece) -> the jobs that ended

A job that runs is never taken back: who deletes it or goes away is not waited for, but it is worked on to its
end, as in vLLM-Omni 0.30 as observed. One that still waits is dropped.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum

from simulator.diffusion.cards import Shape
from simulator.diffusion.physics import Cost, DiffusionPhysics


class State(Enum):
    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    DROPPED = "dropped"


class Phase(Enum):
    ENCODE = "encode"
    STEPS = "steps"
    DECODE = "decode"


@dataclass(eq=False, slots=True)
class Job:
    """One request for `outputs` images or videos of a shape. `left`: nobody waits for it any more."""

    shape: Shape
    outputs: int = 1
    state: State = State.WAITING
    phase: Phase = Phase.ENCODE
    done_steps: int = 0
    left: bool = False


@dataclass(frozen=True, slots=True)
class Piece:
    """What runs next: the same phase of some jobs; of the steps, one."""

    phase: Phase
    jobs: list[Job]

    def cost(self, physics: DiffusionPhysics) -> Cost:
        """What it takes; `shares_j` are in the order of `jobs`."""
        works = [(job.outputs, physics.work(job.shape)) for job in self.jobs]
        if self.phase is Phase.STEPS:
            return physics.step([count * work.step for count, work in works])
        if self.phase is Phase.ENCODE:
            return physics.phase([work.encode for _, work in works])
        return physics.phase([count * work.decode for count, work in works])


class Scheduler:
    def __init__(self, max_batch: int = 1) -> None:
        if max_batch < 1:
            raise ValueError("max_batch must be at least 1")
        self.max_batch = max_batch
        self.waiting: deque[Job] = deque()
        self.running: list[Job] = []

    @property
    def busy(self) -> bool:
        return bool(self.waiting or self.running)

    def add(self, job: Job) -> None:
        self.waiting.append(job)

    def leave(self, job: Job) -> None:
        """Nobody waits for it any more."""
        job.left = True
        if job.state is State.WAITING:
            self.waiting.remove(job)
            job.state = State.DROPPED

    def plan(self) -> Piece | None:
        """Take in whom the batch has room for, and say what runs next. None: there is nothing to do."""
        while self.waiting and self._fits(self.waiting[0]):
            job = self.waiting.popleft()
            job.state = State.RUNNING
            self.running.append(job)
        for phase in (Phase.ENCODE, Phase.DECODE, Phase.STEPS):
            jobs = [job for job in self.running if job.phase is phase]
            if jobs:
                return Piece(phase, jobs)
        return None

    def complete(self, piece: Piece) -> list[Job]:
        """The piece has run: the jobs that ended with it."""
        for job in piece.jobs:
            if piece.phase is Phase.ENCODE:
                job.phase = Phase.STEPS
            elif piece.phase is Phase.STEPS:
                job.done_steps += 1
                if job.done_steps == job.shape.steps:
                    job.phase = Phase.DECODE
            else:
                job.state = State.DONE
                self.running.remove(job)
        return [job for job in piece.jobs if job.state is State.DONE]

    def _fits(self, job: Job) -> bool:
        if not self.running:
            return True
        together = sum(other.outputs for other in self.running) + job.outputs
        return together <= self.max_batch and _size(job) == _size(self.running[0])


def _size(job: Job) -> tuple[int, int, int]:
    return job.shape.width, job.shape.height, job.shape.frames
