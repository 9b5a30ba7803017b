"""The board: the true curve, and that two processes' views of it agree."""

from __future__ import annotations

from pathlib import Path

import pytest

from simulator.gpu.board import B200, H100, RING_POINTS, Board, monotonic_us


def test_the_curve_is_linear_between_points_and_idle_after_the_last(tmp_path: Path) -> None:
    board = Board.create(tmp_path / "board", [H100])
    t_us, energy_uj = board.last(0)
    board.extend(0, t_us + 1_000_000, energy_uj + 700_000_000)
    assert board.energy_uj(0, t_us + 250_000) == energy_uj + 175_000_000
    assert board.energy_uj(0, t_us + 1_500_000) == energy_uj + 700_000_000 + 55_000_000
    board.close()


def test_points_that_run_backwards_are_refused(tmp_path: Path) -> None:
    board = Board.create(tmp_path / "board", [H100])
    t_us, _ = board.last(0)
    board.extend(0, t_us + 10, 1000)
    with pytest.raises(ValueError, match="comes before"):
        board.extend(0, t_us + 9, 2000)
    with pytest.raises(ValueError, match="comes before"):
        board.extend(0, t_us + 20, 999)
    assert board.last(0) == (t_us + 10, 1000)
    board.close()


def test_an_attached_board_shows_what_the_other_end_writes(tmp_path: Path) -> None:
    board = Board.create(tmp_path / "board", [H100, B200])
    other = Board.attach(tmp_path / "board")
    t_us = monotonic_us()
    board.extend(1, t_us, 5_000_000)
    assert len(other) == 2
    assert other.last(1) == (t_us, 5_000_000)
    assert other.last(0)[1] == 0
    other.close()
    board.close()


def test_a_ring_that_has_wrapped_keeps_the_recent_curve(tmp_path: Path) -> None:
    board = Board.create(tmp_path / "board", [H100])
    t_us, _ = board.last(0)
    for k in range(1, RING_POINTS + 1000):
        board.extend(0, t_us + 10 * k, k * k)
    for k in (RING_POINTS - 5, 2000, RING_POINTS + 999):
        assert board.energy_uj(0, t_us + 10 * k) == k * k
    board.close()


def test_a_file_that_is_no_board_is_refused(tmp_path: Path) -> None:
    (tmp_path / "board").write_bytes(bytes(100_000))
    with pytest.raises(ValueError, match="not a board"):
        Board.attach(tmp_path / "board")
    with pytest.raises(FileNotFoundError):
        Board.attach(tmp_path / "none")


@pytest.mark.parametrize("bad", [{"jitter_us": 50_000}, {"period_us": 0}, {"lag_us": -1}])
def test_a_staircase_that_could_run_backwards_is_refused(tmp_path: Path, bad: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="a board needs"):
        Board.create(tmp_path / "board", [H100], **bad)


def test_a_closed_board_says_so(tmp_path: Path) -> None:
    board = Board.create(tmp_path / "board", [H100])
    board.close()
    board.close()
    with pytest.raises(ValueError, match="closed"):
        board.fault(0, "*", code=15)


def test_fault_rules_run_out_loudly_and_come_back_when_healed(tmp_path: Path) -> None:
    board = Board.create(tmp_path / "board", [H100])
    for _ in range(64):
        board.fault(0, "nvmlDeviceGetName", code=15)
    with pytest.raises(RuntimeError, match="in use"):
        board.fault(0, "nvmlDeviceGetUUID", code=15)
    board.heal(0, "nvmlDeviceGetName")
    board.fault(0, "nvmlDeviceGetUUID", code=15)
    board.close()
