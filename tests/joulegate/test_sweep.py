"""A sweep through the proxy on a simulated model that was measured, broken off and gone on with."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from joulegate.cli import main
from joulegate.commands.sweep import stop
from joulegate.process import ProxyProcess
from joulegate.sweep.level import Level, Ran
from joulegate.sweep.plan import TASKS, Plan, SweepError
from joulegate.sweep.proof import Proof
from joulegate.sweep.results import Results, load
from loadgen.asks import NAMES
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


def told(proxy: ProxyProcess, out: Path, levels: str, *options: str) -> list[str]:
    command = ["sweep", "--url", proxy.url, "--model", MODEL, "--task", "reasoning", "--levels", levels]
    return [*command, "--seconds", "4", "--shorter", "0.02", "--gpu", "b200", "--out", str(out), *options]


def sweep(proxy: ProxyProcess, out: Path, levels: str, *options: str) -> tuple[int, str]:
    done = CliRunner().invoke(main, told(proxy, out, levels, *options))
    return done.exit_code, done.output


def test_every_task_of_the_load_generator_can_be_swept() -> None:
    assert set(TASKS) == set(NAMES)


def test_a_sweep_killed_in_the_middle_goes_on_and_its_energies_add_up(
    proxy: ProxyProcess, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "joulegate", *told(proxy, tmp_path, "2,8")]
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    rows = tmp_path / "level-8" / "requests-0.jsonl"
    while not (rows.exists() and rows.stat().st_size):
        assert running.poll() is None
        assert time.monotonic() < deadline, "level 8 did not begin"
        time.sleep(0.05)
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    (first,) = load(tmp_path)[1]
    began = rows.read_text().splitlines()[0]

    status, said = sweep(proxy, tmp_path, "2,8")
    assert status == 0, said
    assert rows.read_text().splitlines()[0] != began
    two, eight = load(tmp_path)[1]
    assert two == first
    assert [two.level.level, eight.level.level] == [2, 8]
    for ran in (two, eight):
        level = ran.level
        assert level.simulated
        assert level.failures == level.cut == 0
        assert level.proof.balanced
        assert level.proof.met
        assert level.in_flight == pytest.approx(level.level, rel=0.1)
        assert level.requests_joules is not None
        assert level.joules_per_token is not None
        assert level.joules_per_token == pytest.approx(level.requests_joules / level.tokens)
        if (interval := level.joules_per_token_interval) is not None:
            assert interval.low <= level.joules_per_token <= interval.high
        assert level.tokens_per_s is not None
        assert level.tokens_per_s == pytest.approx(level.tokens / level.seconds)
        assert (level.power_w or 0) > 140
        own = [seen for seen in ran.seen if seen.in_steady]
        assert len(own) == level.requests > 0
        for seen in ran.seen:
            assert seen.joules is not None
            assert seen.joules == pytest.approx((seen.prefill_joules or 0) + (seen.decode_joules or 0))
    assert two.level.proof.exact
    assert (eight.level.joules_per_token or 0) < (two.level.joules_per_token or 0)
    with (tmp_path / "levels.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["level"] for row in table] == ["2.0", "8.0"]
    assert float(table[0]["ttft_ms_p50"]) > 0
    with (tmp_path / "requests.csv").open(newline="") as file:
        assert sum(1 for _ in csv.DictReader(file)) == len(two.seen) + len(eight.seen)
    html = (tmp_path / "report.html").read_text()
    assert html.count("<svg") == 10
    assert "arXiv 2601.22076" in html
    assert "equal to the microjoule" in html
    assert "http" not in html

    compared = CliRunner().invoke(main, ["compare", str(tmp_path), str(tmp_path), "--json"])
    assert compared.exit_code == 0, compared.output
    changes = json.loads(compared.output)["changes"]
    assert {change["level"] for change in changes} == {2, 8}
    assert not any(change["sure"] for change in changes)


def test_an_open_loop_is_swept_over_rates_by_two_processes(proxy: ProxyProcess, tmp_path: Path) -> None:
    options = ("--arrivals", "poisson", "--workers", "2", "--warm-up", "1")
    status, said = sweep(proxy, tmp_path, "20", *options)
    assert status == 0, said
    (ran,) = load(tmp_path)[1]
    assert ran.level.late_ms is not None
    assert len(ran.seen) == pytest.approx(80, rel=0.4)
    assert all(seen.sent_at >= seen.intended_at for seen in ran.seen)
    assert len(list((tmp_path / "level-20").glob("requests-*.jsonl"))) == 2
    assert ran.level.proof.exact


def test_a_level_ends_when_enough_was_sent(proxy: ProxyProcess, tmp_path: Path) -> None:
    options = ("--requests", "90", "--seconds", "60", "--warm-up", "0.1")
    status, said = sweep(proxy, tmp_path, "2", *options)
    assert status == 0, said
    (ran,) = load(tmp_path)[1]
    assert ran.level.stopped_by == "requests"
    assert len(ran.seen) == 90


def test_an_unknown_model_ends_the_sweep_with_the_reason(proxy: ProxyProcess, tmp_path: Path) -> None:
    status, said = sweep(proxy, tmp_path, "1", "--model", "nobody", "--seconds", "2")
    assert status == 1
    assert "no request was answered" in said
    assert "404" in said


def test_another_plan_needs_another_directory(tmp_path: Path) -> None:
    plan = Plan("http://x", "m", "chat")
    proof = Proof(0, 0, 0, 0, True, None, None, None, None)
    Results(tmp_path, plan).add(Ran(level(level=1.0, proof=proof), [], []))
    assert list(Results(tmp_path, plan).ran) == [1.0]
    with pytest.raises(SweepError, match="another plan \\(seconds differ\\)"):
        Results(tmp_path, dataclasses.replace(plan, seconds=5.0))


def test_a_plan_without_any_level_is_no_obstacle(tmp_path: Path) -> None:
    plan = Plan("http://x", "m", "chat")
    Results(tmp_path, plan)
    other = dataclasses.replace(plan, url="http://y", seconds=5.0)
    Results(tmp_path, other)
    assert load(tmp_path)[0] == other


def test_where_nothing_answers_nothing_is_written(tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    done = CliRunner().invoke(
        main, ["sweep", "--url", "http://127.0.0.1:1", "--model", "m", "--out", str(out)]
    )
    assert done.exit_code == 1
    assert "joulegate at http://127.0.0.1:1 cannot be asked" in done.output
    assert not out.exists()


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--slo-ttft-ms", "nan"),
        ("--slo-tpot-ms", "0"),
        ("--precision", "5"),
        ("--precision", "nan"),
        ("--seconds", "-5"),
        ("--seconds", "inf"),
        ("--warm-up", "60"),
        ("--requests", "-1"),
        ("--drain", "-1"),
        ("--stop-gain", "nan"),
        ("--stop-failures", "1.5"),
        ("--stop-ttft-ms", "-inf"),
        ("--workers", "0"),
        ("--longest", "0"),
        ("--shorter", "0"),
    ],
)
def test_numbers_out_of_bounds_are_refused(tmp_path: Path, option: str, value: str) -> None:
    given = ["--model", "m", "--out", str(tmp_path), option, value]
    done = CliRunner().invoke(main, ["sweep", *given])
    assert done.exit_code == 2
    assert option in done.output


@pytest.mark.parametrize("levels", ["", "a", "0", "4,-1", "1.5", "nan", "1,inf"])
def test_nonsense_levels_are_refused(levels: str) -> None:
    done = CliRunner().invoke(main, ["sweep", "--model", "m", "--levels", levels])
    assert done.exit_code == 2
    assert "--levels" in done.output


def level(**given: object) -> Level:
    """A level in which nothing is known but what is given."""
    values: dict[str, object] = {field.name: None for field in dataclasses.fields(Level)}
    values |= {"requests": 100, "failures": 0, "tokens_per_s": 1000.0}
    return Level(**{**values, **given})  # type: ignore[arg-type]


def test_a_ladder_stops_when_more_brings_nothing() -> None:
    assert stop(level(), level(tokens_per_s=500.0), 0.05, 0.05, 100.0) is None
    assert stop(level(), None, 0.05, None, None) is None
    assert "1.0%" in (stop(level(tokens_per_s=1010.0), level(), 0.05, None, None) or "")
    images = level(tokens_per_s=None, responses_per_s=1.0)
    assert "responses/s" in (stop(images, images, 0.05, None, None) or "")
    assert "6 of 106" in (stop(level(failures=6), None, None, 0.05, None) or "")
    slow = level(ttft_ms={"p50": 90.0, "p90": 150.0})
    assert "150 ms" in (stop(slow, None, None, None, 100.0) or "")
