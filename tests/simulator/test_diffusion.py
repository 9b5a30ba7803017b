"""Diffusion models without a clock or a socket: physics against the paper, queue and batch, virtual time."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path
from statistics import median

import pytest

from simulator.cards import GPUS
from simulator.diffusion import catalog
from simulator.diffusion.cards import CARDS, FLUX_DEV, SANA_1_6B, TINY_IMAGE, WAN_1_3B, Shape
from simulator.diffusion.physics import Coefficients, DiffusionPhysics, batch, stepping
from simulator.diffusion.profiles import DiffusionProfile, profiles
from simulator.diffusion.scheduler import Job, Phase, Scheduler, State
from simulator.diffusion.virtual import Course, VirtualJob, run
from simulator.gpu import board
from simulator.gpu.board import Board
from simulator.gpu.load import Load, Turns

IDLE_W = 110.0
SMALL = Shape(256, 256, 10)


def error(profile: DiffusionProfile, size: int) -> tuple[float, float]:
    limit_w = profile.gpus * GPUS[profile.gpu].tdp_w
    time_s, energy_j = batch(profile.card, profile.coefficients, limit_w, size)
    point = next(point for point in profile.points if point.batch == size)
    return abs(time_s / point.latency_s - 1), abs(energy_j / size / point.joules_each - 1)


def test_every_published_point_is_met_within_a_tenth() -> None:
    errors = [error(profile, point.batch) for profile in profiles().values() for point in profile.points]
    assert len(errors) > 300
    assert max(joules for _, joules in errors) < 0.10
    assert median(joules for _, joules in errors) < 0.02
    assert median(time for time, _ in errors) < 0.02


def test_no_profile_draws_less_than_an_idle_gpu_or_more_than_the_limit() -> None:
    for profile in profiles().values():
        gpu = GPUS[profile.gpu]
        offer = catalog.offer(*profile.key)
        for shape in (Shape(64, 64, 1), offer.card.shape):
            cost = offer.physics.step([offer.physics.work(shape).step])
            assert profile.gpus * gpu.idle_power_w < cost.energy_j / cost.time_s
            assert cost.energy_j / cost.time_s <= profile.gpus * gpu.tdp_w * (1 + 1e-9)


def test_a_video_costs_more_than_a_hundred_images() -> None:
    each = {
        kind: sorted(
            min(
                point.joules_each
                for p in profiles().values()
                if p.key[:2] == (name, "b200")
                for point in p.points
            )
            for name, card in CARDS.items()
            if card.kind == kind and not name.startswith("tiny")
        )
        for kind in ("image", "video")
    }
    assert median(each["video"]) > 100 * median(each["image"])


def test_work_grows_with_steps_pixels_and_frames_and_attention_with_the_square() -> None:
    def step(width: int, frames: int = 1) -> float:
        return WAN_1_3B.step_flop(Shape(width, 480, 50, frames))

    assert step(832, 81) > 21 * step(832, 1)
    flux = FLUX_DEV.step_flop(Shape(2048, 1024, 50)) / FLUX_DEV.step_flop(FLUX_DEV.shape)
    assert 1.8 < flux < 2.6
    sana = SANA_1_6B.step_flop(Shape(2048, 1024, 20)) / SANA_1_6B.step_flop(SANA_1_6B.shape)
    assert sana == pytest.approx(2.0)
    assert all(0.5 < stepping(card) < 1 for card in CARDS.values())


def test_shares_of_a_step_sum_to_it_and_are_equal_for_equal_jobs() -> None:
    physics = DiffusionPhysics(FLUX_DEV, Coefficients(4.0, 2.0, 900.0, 6000.0, 2.0), 2800.0)
    cost = physics.step([0.02, 0.02, 0.01])
    assert sum(cost.shares_j) == pytest.approx(cost.energy_j)
    assert cost.shares_j[0] == pytest.approx(cost.shares_j[1])
    assert 0.5 * cost.shares_j[0] < cost.shares_j[2] < cost.shares_j[0]


def test_a_serial_server_takes_one_job_at_a_time_in_turn() -> None:
    scheduler, jobs = Scheduler(), [Job(SMALL, outputs=4), Job(SMALL), Job(Shape(64, 64, 2))]
    for job in jobs:
        scheduler.add(job)
    order = work_off(scheduler)
    assert [len(piece) for piece in order] == [1] * len(order)
    assert [job for k, (job,) in enumerate(order) if k == 0 or order[k - 1] != [job]] == jobs


def test_a_batch_takes_in_jobs_of_its_size_up_to_its_limit() -> None:
    scheduler = Scheduler(max_batch=3)
    first, longer, other, third = Job(SMALL), Job(Shape(256, 256, 30), 2), Job(SMALL), Job(Shape(64, 64, 1))
    for job in (first, longer, other, third):
        scheduler.add(job)
    together = [set(map(id, jobs)) for jobs in work_off(scheduler)]
    assert {id(first), id(longer)} in together
    assert {id(longer), id(other)} in together
    assert all({id(third)} == jobs for jobs in together if id(third) in jobs)
    assert all(job.state is State.DONE for job in (first, longer, other, third))


def work_off(scheduler: Scheduler) -> list[list[Job]]:
    """The jobs of each piece, until there is nothing to do."""
    order = []
    while (piece := scheduler.plan()) is not None:
        order.append(piece.jobs)
        scheduler.complete(piece)
    return order


def test_a_job_goes_through_its_phases_once_each_but_for_its_steps() -> None:
    scheduler, phases = Scheduler(), []
    scheduler.add(Job(SMALL))
    while (piece := scheduler.plan()) is not None:
        phases.append(piece.phase)
        scheduler.complete(piece)
    assert phases == [Phase.ENCODE, *[Phase.STEPS] * 10, Phase.DECODE]


def serve(jobs: list[VirtualJob], max_batch: int = 1) -> Course:
    physics = catalog.offer(TINY_IMAGE.name, "h100", 1).physics
    return run(physics, jobs, max_batch=max_batch, idle_power_w=IDLE_W, tail_s=1.0)


@pytest.mark.parametrize("max_batch", [1, 4])
def test_in_virtual_time_jobs_and_idle_make_up_the_curve(max_batch: int) -> None:
    shapes = [SMALL, Shape(512, 512, 20), Shape(256, 256, 40)]
    jobs = [VirtualJob(0.3 * k, shapes[k % 3], 1 + k % 2) for k in range(30)]
    course = serve(jobs, max_batch)
    assert sum(job.energy_j for job in jobs) + course.idle_j == pytest.approx(course.energy_j[-1])
    assert all(job.begins_s is not None and job.begins_s < job.ends_s for job in jobs)
    assert (course.time_s[1:] >= course.time_s[:-1]).all()


def test_in_virtual_time_who_leaves_in_the_queue_costs_nothing_and_who_runs_costs_all() -> None:
    runs, waits, last = (VirtualJob(0.0, SMALL), VirtualJob(0.01, SMALL), VirtualJob(0.02, SMALL))
    runs.leaves_s = waits.leaves_s = 0.03
    serve([runs, waits, last])
    assert waits.begins_s is None
    assert waits.energy_j == 0
    assert runs.energy_j == pytest.approx(last.energy_j)
    assert last.begins_s == pytest.approx(runs.ends_s)


def test_who_was_not_measured_there_is_told_where_it_was() -> None:
    with pytest.raises(KeyError, match=r"only on .*1 x h100"):
        catalog.offer(SANA_1_6B.name, "h100", 3)


def test_two_engines_on_one_gpu_take_turns_and_their_energies_make_up_the_curve(tmp_path: Path) -> None:
    path = tmp_path / "board"
    curve = Board.create(path, [board.H100])
    order: list[int] = []

    async def engine(number: int, load: Load, piece_uj: int) -> None:
        turns = Turns(path, [0])
        for _ in range(20):
            async with turns:
                order.append(number)
                load.draw(load.next_us(False), 2_000, piece_uj)
                await asyncio.sleep(0.002)

    async def both() -> tuple[int, int, int]:
        _begin_us, begin_uj = curve.last(0)
        loads = Load(curve, [0]), Load(curve, [0])
        await asyncio.gather(engine(0, loads[0], 1_000), engine(1, loads[1], 3_000))
        _end_us, end_uj = curve.last(0)
        return end_uj - begin_uj, sum(load.drawn_uj for load in loads), sum(load.idle_uj for load in loads)

    whole_uj, drawn_uj, idle_uj = asyncio.run(both())
    assert drawn_uj == 20 * 4_000
    before_uj = whole_uj - drawn_uj - idle_uj  # from the board's making to the engines'
    assert 0 <= before_uj < 110 * 1_000_000
    changes = sum(a != b for a, b in itertools.pairwise(order))
    assert changes > 30
