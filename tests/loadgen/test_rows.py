"""Rows keep what the client saw; quantiles of gaps come back right."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest

from loadgen import rows
from loadgen.rows import Row, Writer


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9, 0.99])
def test_quantiles_of_gaps_are_within_three_percent(part: float) -> None:
    pick = random.Random(2)
    times_s = np.cumsum([pick.lognormvariate(-4, 1) for _ in range(3000)])
    true_ms = float(np.quantile(np.diff(times_s) * 1000, part))
    assert rows.gap_ms(rows.gaps(times_s.tolist()), part) == pytest.approx(true_ms, rel=0.03)


def test_counts_of_many_rows_add_up_also_from_json() -> None:
    one = rows.gaps([0.0, 0.01, 0.02])
    again = json.loads(json.dumps(one))
    assert sum(rows.merged([one, again, {}]).values()) == 4
    assert rows.gap_ms({}, 0.5) is None
    assert rows.gaps([1.0]) == {}


def test_a_row_is_on_disk_as_soon_as_it_is_written(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "deep" / "requests-0.jsonl")
    writer.write(Row("a", "chat", 1.0, 1.5, tokens=3))
    (line,) = (tmp_path / "deep" / "requests-0.jsonl").read_text().splitlines()
    assert Row(**json.loads(line)) == Row("a", "chat", 1.0, 1.5, tokens=3)
    writer.close()
