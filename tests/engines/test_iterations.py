"""Lines of vLLM's log become engine steps, and a log with a hole is not taken."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.engines.iterations import Iteration, Steps, read_iterations, within

LINE = (
    "(APIServer pid=7) {t_s:.6f} INFO Engine 000: Iteration({index}): 1 context requests, {prompt} context "
    "tokens, 2 generation requests, 2 generation tokens, iteration elapsed time: 8.25 ms, "
    "CPU KV cache usage: 0.1%\n"
)


def log_of(path: Path, indices: list[int]) -> Path:
    log = path / "vllm.log"
    lines = [LINE.format(t_s=1000.5 + index / 100, index=index, prompt=256) for index in indices]
    log.write_text("(APIServer pid=7) 999.000000 INFO something else\n" + "".join(lines))
    return log


def test_a_step_lies_in_its_elapsed_time_before_the_line(tmp_path: Path) -> None:
    first, second = read_iterations(log_of(tmp_path, [0, 1]))
    assert first == Iteration(0, 1_000_491_750, 1_000_500_000, 1, 256, 2, 2)
    assert second.t1_us - first.t1_us == 10_000


def test_a_log_with_a_hole_is_refused(tmp_path: Path) -> None:
    for indices in ([0, 2], [1, 0], []):
        with pytest.raises(ValueError, match="every iteration"):
            read_iterations(log_of(tmp_path, indices))


def test_a_step_across_an_edge_counts_by_its_part() -> None:
    step = Iteration(0, 1000, 2000, 1, 100, 2, 2)
    assert within([step], 0, 1250) == Steps(0.25, 25.0, 0.5)
    assert within([step], 1250, 9000) == Steps(0.75, 75.0, 1.5)
    assert within([step], 2000, 9000) == Steps(0.0, 0.0, 0.0)
