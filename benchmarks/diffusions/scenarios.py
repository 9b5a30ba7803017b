"""What is run to see whether each job gets its own energy: one frozen value per scenario, with its own
seed."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np

from benchmarks.traces.scenario import DENSE, HARD, Aim
from simulator.cards import GPUS
from simulator.diffusion import catalog
from simulator.diffusion.cards import FLUX_DEV, SANA_1_6B, SD_35_MEDIUM, WAN_1_3B, Shape
from simulator.diffusion.physics import DiffusionPhysics
from simulator.diffusion.virtual import VirtualJob

QUIET_S = 10.0
"""Idle before the first job."""

IMAGE_SHAPES = tuple(
    Shape(width, height, steps)
    for width, height in ((1024, 1024), (768, 768), (1024, 512), (512, 512))
    for steps in (50, 28, 20, 10)
)
ONE_SIZE = tuple(shape for shape in IMAGE_SHAPES if shape.width == shape.height == 1024)
VIDEO_SHAPES = tuple(
    Shape(width, height, steps, frames)
    for width, height in ((832, 480), (480, 480))
    for steps in (50, 20)
    for frames in (81, 49, 17)
)


@dataclass(frozen=True, slots=True)
class Scenario:
    """`load` is the part of the time that a serial server would be busy; `burst` how many come at once."""

    name: str
    title: str
    seed: int
    model: str = SD_35_MEDIUM.name
    gpu: str = "h100"
    shapes: tuple[Shape, ...] = IMAGE_SHAPES
    load: float = 0.6
    burst: int = 1
    outputs: tuple[int, ...] = (1, 1, 1, 2, 4)
    max_batch: int = 1
    at_once: int | None = 1
    """What the configuration says of the batch; None: nothing."""
    leaving: float = 0.0
    """Part of the clients that go away before their answer."""
    counts: bool = True
    """Whether the server's own counts are polled each second (vLLM-Omni's /metrics)."""
    chats_per_s: float = 0.0
    """Requests to a language model on the same GPU."""
    aim: Aim | None = DENSE
    long: float = 1.0
    """Its run lasts so many times as long as the others."""
    start_s: float | None = None
    """Instead: it lasts so long, and is judged from the first request on, while prices are still learnt."""


SCENARIOS = (
    Scenario("serial", "serial, mixed sizes and steps", 1),
    Scenario("serial-unknown", "serial, nobody says so, no counts", 2, at_once=None, counts=False),
    Scenario("serial-bursts", "serial, four at once each time", 3, burst=4, load=0.7),
    Scenario("serial-full", "serial, queue never empty", 4, load=1.3),
    Scenario("large", "serial, FLUX.1-dev", 5, model=FLUX_DEV.name, outputs=(1,), long=3.0),
    Scenario("left", "serial, a quarter of the clients leave, no counts", 6, leaving=0.25, counts=False),
    Scenario("left-counts", "serial, a quarter leave, vLLM-Omni's counts", 7, leaving=0.25),
    Scenario(
        "batch",
        "batches of up to 8 of one size, mixed steps, told",
        8,
        shapes=ONE_SIZE,
        outputs=(1,),
        max_batch=8,
        at_once=8,
        load=1.0,
        long=2.5,
        aim=HARD,
    ),
    Scenario(
        "batch-counts",
        "the same, seen in the server's counts only",
        13,
        shapes=ONE_SIZE,
        outputs=(1,),
        max_batch=8,
        at_once=None,
        load=1.0,
        aim=None,
    ),
    Scenario(
        "batch-unknown",
        "the same, nobody says so, no counts",
        9,
        shapes=ONE_SIZE,
        outputs=(1,),
        max_batch=8,
        at_once=None,
        load=1.0,
        counts=False,
        aim=None,
    ),
    Scenario(
        "batch-mixed",
        "batches of up to 8 images, mixed sizes and counts: only jobs of one size run together",
        12,
        max_batch=8,
        at_once=None,
        load=1.0,
        aim=None,
    ),
    Scenario(
        "videos",
        "videos as jobs, serial, polled",
        10,
        model=WAN_1_3B.name,
        shapes=VIDEO_SHAPES,
        outputs=(1,),
        long=6.0,
    ),
    Scenario(
        "with-chats", "images and an 8B chat model on one GPU", 11, load=0.35, chats_per_s=0.7, aim=HARD
    ),
    Scenario("with-few-chats", "the same, mostly images", 14, load=0.5, chats_per_s=0.2, aim=HARD),
    Scenario(
        "with-chats-start",
        "the same, SANA 1.6B, the first 100 s after a start",
        15,
        model=SANA_1_6B.name,
        load=0.35,
        chats_per_s=0.7,
        start_s=100.0,
        aim=HARD,
    ),
)


def physics_of(scenario: Scenario) -> DiffusionPhysics:
    return catalog.offer(scenario.model, scenario.gpu, 1).physics


def idle_w(scenario: Scenario) -> float:
    return GPUS[scenario.gpu].idle_power_w


def jobs_of(scenario: Scenario, length_s: float, seed: int) -> list[VirtualJob]:
    """Poisson arrivals of bursts over `length_s`. Shapes at random; who leaves does so at a random moment of
    the time that such a job takes."""
    draw = random.Random(seed)
    physics = physics_of(scenario)
    alone = {shape: alone_s(physics, shape) for shape in scenario.shapes}
    mean_outputs = float(np.mean(scenario.outputs))
    mean_s = float(np.mean(list(alone.values()))) * (1 + 0.9 * (mean_outputs - 1))
    jobs: list[VirtualJob] = []
    now_s = QUIET_S
    while (now_s := now_s + draw.expovariate(scenario.load / mean_s / scenario.burst)) < QUIET_S + length_s:
        for _ in range(scenario.burst):
            shape, outputs = draw.choice(scenario.shapes), draw.choice(scenario.outputs)
            job = VirtualJob(now_s, shape, outputs)
            if draw.random() < scenario.leaving:
                job.leaves_s = now_s + draw.uniform(0.05, 1.0) * alone[shape] * outputs
            jobs.append(job)
            now_s += 0.005
    return jobs


def alone_s(physics: DiffusionPhysics, shape: Shape) -> float:
    """How long one image or video takes that has the server for itself."""
    work = physics.work(shape)
    fixed_s = physics.phase([work.encode]).time_s + physics.phase([work.decode]).time_s
    return fixed_s + shape.steps * physics.step([work.step]).time_s
