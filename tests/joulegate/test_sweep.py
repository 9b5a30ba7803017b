"""A sweep through the proxy on a simulated model that was measured."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from joulegate.cli import main
from joulegate.process import ProxyProcess
from joulegate.sweep.level import _tokens_in
from simulator.process import SimulatedEngine

MODEL = "openai/gpt-oss-120b"


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProxyProcess]:
    directory = tmp_path_factory.mktemp("sweep")
    with SimulatedEngine(directory / "engine", model=MODEL, gpu="b200") as engine:
        settings = {
            "backends": [{"id": "simulated", "url": engine.url}],
            "meter": {"library": str(engine.library)},
        }
        with ProxyProcess(directory / "proxy", settings) as running:
            yield running


def sweep(proxy: ProxyProcess, out: Path, levels: str, *options: str) -> tuple[int, str]:
    told = ["sweep", "--url", proxy.url, "--model", MODEL, "--task", "reasoning", "--levels", levels]
    told += ["--seconds", "4", "--warm-up", "2", "--shorter", "0.02", "--gpu", "b200", "--out", str(out)]
    done = CliRunner().invoke(main, [*told, *options])
    return done.exit_code, done.output


def test_a_sweep_writes_figures_and_a_report_and_goes_on_where_it_was(
    proxy: ProxyProcess, tmp_path: Path
) -> None:
    status, said = sweep(proxy, tmp_path, "2")
    assert status == 0, said
    first = json.loads((tmp_path / "results.json").read_text())["levels"]
    status, said = sweep(proxy, tmp_path, "2,8")
    assert status == 0, said
    levels = json.loads((tmp_path / "results.json").read_text())["levels"]
    assert levels[0] == first[0]
    assert [level["in_flight"] for level in levels] == [2, 8]
    for level in levels:
        assert level["balanced"]
        assert level["simulated"]
        assert level["failures"] == 0
        assert level["joules_per_token"] == pytest.approx(level["energy_joules"] / level["tokens"])
        assert level["tokens_per_s"] == pytest.approx(level["tokens"] / level["seconds"])
        assert level["power_w"] > 140
    assert levels[1]["joules_per_token"] < levels[0]["joules_per_token"]
    with (tmp_path / "results.csv").open(newline="") as file:
        assert [row["in_flight"] for row in csv.DictReader(file)] == ["2", "8"]
    html = (tmp_path / "report.html").read_text()
    assert html.count("<svg") == 4
    assert "arXiv 2601.22076" in html
    assert "http" not in html


def test_another_plan_needs_another_directory(proxy: ProxyProcess, tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(json.dumps({"plan": {}, "levels": []}))
    status, said = sweep(proxy, tmp_path, "1")
    assert status == 1
    assert "another plan" in said


def test_an_unknown_model_ends_the_sweep_with_the_reason(proxy: ProxyProcess, tmp_path: Path) -> None:
    status, said = sweep(proxy, tmp_path, "1", "--model", "nobody", "--seconds", "2")
    assert status == 1
    assert "no request was answered" in said


@pytest.mark.parametrize("levels", ["", "a", "0", "4,-1"])
def test_nonsense_levels_are_refused(levels: str) -> None:
    done = CliRunner().invoke(main, ["sweep", "--model", "m", "--levels", levels])
    assert done.exit_code == 2
    assert "--levels" in done.output


def test_a_records_tokens_are_spread_over_its_answer() -> None:
    record = {"first_token_at": 10.0, "finished_at": 20.0, "completion_tokens": 100}
    assert _tokens_in(record, 0.0, 30.0) == 100
    assert _tokens_in(record, 15.0, 30.0) == pytest.approx(50)
    assert _tokens_in(record, 12.0, 14.0) == pytest.approx(20)
    assert _tokens_in(record, 21.0, 30.0) == 0
    assert _tokens_in({**record, "first_token_at": None}, 0.0, 30.0) == 0
    assert _tokens_in({**record, "first_token_at": 20.0}, 0.0, 30.0) == 100
