"""The benchmark of images and videos: what it tells the ledger is what happened."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.diffusions import told
from benchmarks.diffusions.judge import EQUAL, OURS, judge
from benchmarks.diffusions.ladder import climb
from benchmarks.diffusions.scenarios import SCENARIOS, jobs_of
from benchmarks.diffusions.told import Curve
from simulator.diffusion import catalog
from simulator.diffusion.cards import FLUX_DEV, SANA_1_6B
from simulator.diffusion.profiles import profiles
from simulator.diffusion.virtual import VirtualJob, run


def test_a_batch_of_the_paper_comes_back_from_the_ledger() -> None:
    profile = profiles()[SANA_1_6B.name, "h100", 1]
    rung = climb(profile, profile.points[-1], float("inf"))
    assert rung.balanced
    assert max(map(abs, rung.errors)) < 0.1
    unasked = climb(profile, profile.points[-1], 0.0)
    assert unasked.balanced is None
    assert unasked.joules_each == pytest.approx(rung.joules_each, rel=0.02)


def test_four_images_at_once_get_their_own_energy_though_their_times_overlap() -> None:
    shape = FLUX_DEV.shape
    jobs = [VirtualJob(10.0, replace(shape, steps=steps)) for steps in (10, 20, 30, 40)]
    course = run(catalog.offer(FLUX_DEV.name, "h100", 1).physics, jobs, idle_power_w=110.0, tail_s=10.0)
    timed = told.tell(jobs, "image", None)
    done = told.settle(timed, Curve(course.time_s, course.energy_j), [told.declared(1, 1)])
    assert done.balanced
    told_s = sum(job.ends_s - job.arrives_s for job in jobs)
    assert told_s > 1.8 * (jobs[-1].ends_s - 10.0)
    for number, job in enumerate(jobs):
        assert done.joules(f"m{number}") == pytest.approx(job.energy_j, rel=0.03)


def test_a_scenario_is_judged_on_jobs_that_ran() -> None:
    scenario = next(one for one in SCENARIOS if one.name == "serial")
    score = judge(scenario, 200.0)
    assert score.balanced
    assert not score.missed
    assert score.judged > 10
    assert score.methods[OURS].median < 0.02 < score.methods[EQUAL].median


def test_a_language_model_and_a_diffusion_server_on_one_gpu_each_get_their_own() -> None:
    scenario = next(one for one in SCENARIOS if one.name == "with-chats")
    score = judge(scenario, 120.0)
    assert score.balanced
    assert abs(score.measured_error) < 1e-6
    assert score.methods[OURS].median < 0.5 * score.methods[EQUAL].median
    assert score.chats[OURS].median < 0.15


def test_jobs_come_as_the_seed_says() -> None:
    scenario = next(one for one in SCENARIOS if one.name == "left")
    one, again, other = (jobs_of(scenario, 300.0, seed) for seed in (1, 1, 2))
    assert [job.arrives_s for job in one] == [job.arrives_s for job in again]
    assert [job.arrives_s for job in one] != [job.arrives_s for job in other]
    assert any(job.leaves_s is not None for job in one)
