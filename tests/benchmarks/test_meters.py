"""The meters' benchmark: its truth is known, its sums are right, and it can fail."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from benchmarks.metering import course, ours, report
from benchmarks.metering.sampler import Sampled
from benchmarks.meters import misses
from simulator.gpu.board import H100, Board, monotonic_us

COUNTS = {50: 3, 200: 2, 1_000: 1, 10_000: 1}
GOOD = Sampled(True, 5.0, 0.005, 1_000, 30.0, 37.0, 60.0)


def test_windows_of_one_gpu_never_touch() -> None:
    windows = course.plan(COUNTS, 0, seed=1)
    assert len(windows) == course.GPUS * sum(COUNTS.values())
    for gpu in range(course.GPUS):
        mine = [window for window in windows if window.gpu == gpu]
        assert mine[0].t0_us >= course.QUIET_US
        assert all(b.t0_us - a.t1_us >= course.GAP_MS[0] * 1_000 for a, b in pairwise(mine))


def test_a_board_draws_the_power_that_was_planned(tmp_path: Path) -> None:
    board = Board.create(tmp_path / "board", [H100.numbered(n) for n in range(course.GPUS)])
    windows = course.plan({50: 4}, monotonic_us() + 1_000_000, seed=1)
    course.draw(board, windows, seed=1)
    for window in windows:
        drawn_uj = board.energy_uj(window.gpu, window.t1_us) - board.energy_uj(window.gpu, window.t0_us)
        power_w = drawn_uj / (window.t1_us - window.t0_us)
        assert course.POWER_W[0] * 0.9 <= power_w <= course.POWER_W[1] * 1.1
    board.close()


def test_ours_finds_the_energy_of_requests_from_a_staircase(tmp_path: Path) -> None:
    board = Board.create(tmp_path / "board", [H100.numbered(n) for n in range(course.GPUS)])
    begin_us = monotonic_us() + 100_000
    windows = course.plan({50: 6}, begin_us, seed=1)
    course.draw(board, windows, seed=1)
    reads = {}
    for gpu in range(course.GPUS):
        end_us = course.end_us(windows) + 500_000
        shown = [board.energy_uj(gpu, t - t % 100_000) // 1000 for t in range(begin_us, end_us, 29_000)]
        times = range(begin_us, end_us, 29_000)
        reads[H100.numbered(gpu).uuid] = [(t, t + 10, mj) for t, mj in zip(times, shown, strict=True)]
    meter = cast(ours.Meter, SimpleNamespace(reads=reads))
    given = ours.energies_uj(meter, windows, begin_us, lag_us=0, activity=True)
    true = [board.energy_uj(w.gpu, w.t1_us) - board.energy_uj(w.gpu, w.t0_us) for w in windows]
    assert report.errors("ours", 50, [uj or 0 for uj in given], true).mean < 0.05
    board.close()


def test_errors_are_relative_to_the_truth() -> None:
    found = report.errors("ours", 50, [90, 100, 130], [100, 100, 100])
    assert found.mean == pytest.approx(0.4 / 3)
    assert found.worst == pytest.approx(0.3)


def rows(**means: float) -> list[report.Errors]:
    return [
        report.Errors(method, length, 1, mean, mean, mean)
        for method, mean in means.items()
        for length in course.LENGTHS_MS
    ]


@pytest.mark.parametrize(
    ("means", "sample", "missed"),
    [
        ({"ours": 0.01, "zeus": 0.5}, {}, 0),
        ({"ours": 0.01}, {}, 0),
        ({"ours": 0.02, "zeus": 0.01}, {}, len(course.LENGTHS_MS)),
        ({"ours": 0.06, "zeus": 0.5}, {}, 1),
        ({"ours": 0.01, "zeus": 0.5}, {"core_share": 0.02}, 1),
        ({"ours": 0.01, "zeus": 0.5}, {"gap_p95_ms": 80.0}, 1),
    ],
)
def test_a_missed_aim_is_told(means: dict[str, float], sample: dict[str, Any], missed: int) -> None:
    assert len(misses(rows(**means), [replace(GOOD, **sample)])) == missed
