"""The GPU check's estimators against counters of known period, jitter, lag and blindness."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from benchmarks.gpucheck import counter
from benchmarks.gpucheck.burner import BoardBurner
from benchmarks.gpucheck.edges import Edges, Reads, cadence, find_edges
from benchmarks.gpucheck.lag import Burst, find_lag, on_us
from benchmarks.gpucheck.sampling import Block, Kind, Sampling, judge
from simulator.gpu.board import H100, Board
from simulator.gpu.library import build

IDLE_W, BUSY_W = 100.0, 600.0
PERIOD_US = 100_000


def staircase(
    seconds: float, truth_uj: Callable[[float], float], *, jitter_us: int = 0, lag_us: int = 0, seed: int = 0
) -> Edges:
    """The edges of a counter that shows truth_uj(t - lag) at each of its updates, as reads each ms see it."""
    rng = random.Random(seed)
    updates = [
        n * PERIOD_US + rng.uniform(-jitter_us, jitter_us) for n in range(int(seconds * 1e6 / PERIOD_US))
    ]
    t_us = np.arange(0, int(seconds * 1e6), 1_000)
    shown = np.searchsorted(updates, t_us, side="right") - 1
    values = np.asarray([round(truth_uj(t - lag_us) / 1000) for t in updates])
    return find_edges(Reads(t_us, t_us + 10, values[np.maximum(shown, 0)]))


def energy_of(bursts: list[Burst]) -> Callable[[float], float]:
    return lambda t: IDLE_W * t + (BUSY_W - IDLE_W) * float(on_us(bursts, np.asarray([t]))[0])


def scattered(seconds: float, seed: int) -> list[Burst]:
    rng, t_us, bursts = random.Random(seed), 200_000.0, []
    while t_us < (seconds - 1) * 1e6:
        end_us = t_us + rng.uniform(130_000, 370_000)
        bursts.append((t_us, end_us))
        t_us = end_us + rng.uniform(130_000, 370_000)
    return bursts


def test_time_with_the_load_on_is_counted_between_any_two_moments() -> None:
    bursts = [(10.0, 20.0), (30.0, 35.0)]
    assert list(on_us(bursts, np.asarray([0.0, 10.0, 15.0, 25.0, 32.0, 40.0]))) == [0, 0, 5, 10, 12, 15]
    assert list(on_us([], np.asarray([1.0, 2.0]))) == [0, 0]


@pytest.mark.parametrize("jitter_us", [0, 3_000, 10_000])
def test_period_and_jitter_are_found(jitter_us: int) -> None:
    found = cadence(staircase(30.0, lambda t: IDLE_W * t, jitter_us=jitter_us))
    assert found is not None
    assert found.period_us == pytest.approx(PERIOD_US, rel=0.001)
    assert found.jitter_sd_us == pytest.approx(jitter_us / 3**0.5, abs=300 + 0.1 * jitter_us)
    assert (found.odd, found.skipped) == (0, 0)


def test_updates_that_are_left_out_are_counted_and_do_not_spoil_the_period() -> None:
    whole = staircase(20.0, lambda t: IDLE_W * t, jitter_us=2_000)
    kept = [k for k in range(len(whole.value)) if k % 10 != 5]
    found = cadence(Edges(whole.lo_us[kept], whole.hi_us[kept], whole.value[kept]))
    assert found is not None
    assert found.period_us == pytest.approx(PERIOD_US, rel=0.001)
    assert found.skipped == len(whole.value) - len(kept)


def test_a_counter_that_hardly_moves_has_no_period() -> None:
    assert cadence(staircase(0.5, lambda t: IDLE_W * t)) is None


@pytest.mark.parametrize("lag_us", [0, 20_000, 150_000])
def test_the_lag_is_found_with_both_powers(lag_us: int) -> None:
    bursts = scattered(15.0, seed=3)
    found = find_lag(staircase(15.0, energy_of(bursts), jitter_us=3_000, lag_us=lag_us), bursts)
    assert found is not None
    assert found.lag_us == pytest.approx(lag_us, abs=1_500)
    assert found.idle_w == pytest.approx(IDLE_W, rel=0.03)
    assert found.busy_w == pytest.approx(BUSY_W, rel=0.03)
    assert found.unexplained < 0.05


def test_a_load_that_has_nothing_to_do_with_the_energy_explains_nothing() -> None:
    found = find_lag(staircase(15.0, energy_of(scattered(15.0, seed=3))), scattered(15.0, seed=4))
    assert found is not None
    assert found.unexplained > 0.5


def in_step(offset_us: float, t0_us: float) -> list[Burst]:
    begins = [t0_us + offset_us + k * PERIOD_US for k in range(39)]
    return [(t_us, t_us + 25_000) for t_us in begins]


def blocks() -> list[Block]:
    """Blocks of 4 s as the check makes them, in virtual time."""
    rng = random.Random(5)
    made: list[Block] = []

    def add(kind: Kind, phase: float | None, bursts: Callable[[float], list[Burst]]) -> None:
        t0_us = len(made) * 4e6
        made.append(Block(kind, phase, t0_us, t0_us + 4e6, bursts(t0_us)))

    def random_ones(t0_us: float) -> list[Burst]:
        found, t_us = [], t0_us
        while (t_us := t_us + rng.uniform(30_000, 120_000)) < t0_us + 3.9e6:
            found.append((t_us, t_us + 25_000))
            t_us += 25_000
        return found

    add("off", None, lambda _: [])
    add("on", None, lambda t0: [(t0, t0 + 4e6)])
    add("random", None, random_ones)
    add("fine", None, lambda t0: [(t0 + k * 10_000, t0 + k * 10_000 + 2_500) for k in range(400)])
    for n in range(8):
        add("locked", n / 8, partial(in_step, n / 8 * PERIOD_US))
    return made


def sampled(window_us: float) -> Sampling:
    """What is said of a counter that looks at the last `window_us` of each period only."""
    made = blocks()
    energy = energy_of([burst for block in made for burst in block.bursts])
    seen, shown = 0.0, {}
    for n in range(len(made) * 40):
        end = n * PERIOD_US
        seen += (energy(end) - energy(end - window_us)) * PERIOD_US / window_us
        shown[end] = seen
    edges = staircase(len(made) * 4.0, lambda t: shown[round(t)])
    found = judge(edges, made, lag_us=0.0)
    assert found is not None
    return found


def test_a_counter_that_sees_everything_is_not_accused() -> None:
    found = sampled(PERIOD_US)
    assert not found.undersamples
    assert found.spread < 0.05
    assert found.locked_over_random == pytest.approx(1, abs=0.05)
    assert found.fine_over_random == pytest.approx(1, abs=0.05)
    assert found.idle_w == pytest.approx(IDLE_W, rel=0.01)
    assert found.busy_w == pytest.approx(BUSY_W, rel=0.01)


def test_a_counter_that_looks_at_a_quarter_of_the_time_is_found_out() -> None:
    found = sampled(25_000)
    assert found.undersamples
    assert found.spread > 0.9


def test_the_simulated_counter_is_measured_as_it_was_made(tmp_path: Path) -> None:
    board = Board.create(tmp_path / "board", [H100], period_us=50_000, jitter_us=2_000, lag_us=30_000)
    try:
        burner, library = BoardBurner(board, 500.0), build(tmp_path)
        # Other work on the machine can hold up a burst, and with it the lag: hardly three times in a row.
        for _ in range(3):
            found = counter.follow(burner, library, 4.0)
            if found.lag is not None and found.lag.lag_us == pytest.approx(30_000, abs=4_000):
                break
    finally:
        board.close()
    assert found.cadence is not None
    assert found.lag is not None
    assert found.cadence.period_us == pytest.approx(50_000, rel=0.01)
    # Polls of a busy machine may be too far apart to tell the jitter from their own distance: 0 then.
    assert found.cadence.jitter_sd_us <= 2_000 / 3**0.5 + 1_000
    assert found.lag.lag_us == pytest.approx(30_000, abs=4_000)
    assert found.lag.busy_w == pytest.approx(500, rel=0.05)


def test_a_rehearsal_runs_without_a_gpu_and_says_that_it_is_one(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.gpucheck", "--rehearse", "--out", str(tmp_path)]
    command += ["--only", "idle", "--only", "calls"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["rehearsal"]
    assert said["failed"] == {}
    report = json.loads(Path(said["report"]).read_text())
    assert report["machine"]["simulated"]
    assert report["steps"]["idle"]["result"]["counter_w"] == pytest.approx(H100.idle_power_w, rel=0.02)
    assert all(call["error"] is None for call in report["steps"]["calls"]["result"]["calls"])
