"""`joulegate meters`: what it says of machines with GPUs that work, that do not, and that are not there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from accounting.events import CrossCheck
from accounting.meters.wire import SourceInfo
from joulegate.commands.meters import _show
from joulegate.survey import Asked, Device, Survey
from simulator.gpu.board import H100, Board
from simulator.gpu.library import build

NOWHERE = "http://127.0.0.1:9"
NOT_SUPPORTED, GPU_IS_LOST = 3, 15


def run(*arguments: str, directory: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "joulegate", "meters", *arguments]
    env = {**os.environ, **environment}
    return subprocess.run(command, capture_output=True, text=True, cwd=directory, env=env, check=False)


@pytest.fixture(scope="module")
def answer(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Of a machine with a good GPU, one split by MIG without an energy counter, and a lost one."""
    directory = tmp_path_factory.mktemp("machine")
    library = build(directory)
    gpus = [H100, replace(H100.numbered(1), mig_instances=2), H100.numbered(2)]
    board = Board.create(directory / "board", gpus)
    board.fault(1, "nvmlDeviceGetTotalEnergyConsumption", code=NOT_SUPPORTED)
    board.fault(2, "*", code=GPU_IS_LOST)
    config = directory / "settings.yaml"
    backend = {"id": "engine", "url": NOWHERE}
    meter = {"library": str(library), "counter_lag_ms": 20}
    config.write_text(yaml.safe_dump({"backends": [backend], "meter": meter}))
    done = run("--config", str(config), "--json", directory=directory, CUDA_VISIBLE_DEVICES="1")
    board.close()
    assert done.returncode == 0, done.stderr
    loaded: dict[str, Any] = json.loads(done.stdout)
    return loaded


def test_a_good_gpu_is_measured_and_how_well_is_told(answer: dict[str, Any]) -> None:
    good = answer["devices"][0]
    assert good["gpu"] == H100.uuid
    assert (good["measured"], good["method"], good["index"]) == (True, "nvml-counter", 0)
    assert good["counter_period_ms"] == pytest.approx(100, rel=0.05)
    assert good["counter_jitter_ms"] is None or good["counter_jitter_ms"] < 20  # None: too little to be seen
    assert good["lag_ms"] == 20
    assert good["power_w"] == pytest.approx(H100.idle_power_w, rel=0.1)
    assert good["call_p95_us"] >= good["call_p50_us"]
    check = good["cross_check"]
    assert check["counter_mj"] == pytest.approx(check["power_mj"], abs=check["allowed_mj"])
    assert good["problem"] is None


def test_a_gpu_without_its_best_way_is_measured_and_the_reason_is_given(answer: dict[str, Any]) -> None:
    second = answer["devices"][1]
    assert second["measured"]
    assert second["ways"][0]["problem"] == "NOT_SUPPORTED"
    assert "NOT_SUPPORTED" in second["note"]
    assert any(second["gpu"] in line and "coarser" in line for line in answer["advice"])


def test_a_lost_gpu_is_told_with_what_to_do(answer: dict[str, Any]) -> None:
    lost = answer["devices"][2]
    assert (lost["measured"], lost["code"]) == (False, "GPU_IS_LOST")
    assert any("reset or a reboot" in line for line in answer["advice"])


def test_mig_and_cuda_visible_devices_are_explained(answer: dict[str, Any]) -> None:
    second = answer["devices"][1]
    assert len(second["mig"]) == 2
    assert any("MIG" in line and second["gpu"] in line for line in answer["advice"])
    assert answer["cuda_shows"] == [second["gpu"]]
    assert any("gpus: cuda:1" in line for line in answer["advice"])


def test_a_library_that_cannot_be_loaded_is_named_and_the_status_is_one(tmp_path: Path) -> None:
    broken = tmp_path / "libnvidia-ml.so.1"
    broken.write_text("no library")
    done = run("--library", str(broken), directory=tmp_path)
    assert done.returncode == 1
    assert "No GPU was found." in done.stdout
    assert str(broken) in done.stdout
    assert "joulegate demo" in done.stdout


def test_meters_elsewhere_that_do_not_answer_are_named(tmp_path: Path) -> None:
    meters = [{"source": "zeusd", "url": NOWHERE}, {"source": "dcgm", "url": f"{NOWHERE}/metrics"}]
    settings = {"backends": [{"id": "engine", "url": NOWHERE}], "meters": meters}
    (tmp_path / "joulegate.yaml").write_text(yaml.safe_dump(settings))
    done = run(directory=tmp_path)
    assert done.returncode == 1
    for name in ("zeusd", "DCGM exporter"):
        assert f"- {name} at {NOWHERE} cannot be reached" in done.stdout


def test_settings_that_cannot_be_used_are_status_two(tmp_path: Path) -> None:
    (tmp_path / "joulegate.yaml").write_text("nonsense: 1\n")
    done = run(directory=tmp_path)
    assert done.returncode == 2
    assert "nonsense: there is no such setting" in done.stderr


def test_the_table_shows_figures_and_says_where_there_are_none(capsys: pytest.CaptureFixture[str]) -> None:
    check = CrossCheck(over_us=5_000_000, counter_mj=187_000, power_mj=327_000, allowed_mj=33_000)
    ways = [
        SourceInfo(name="energy", method="nvml-counter", call_us=7),
        SourceInfo(name="power", method="nvml-power", problem="NOT_SUPPORTED"),
    ]
    full = Device(
        gpu="GPU-1",
        device="NVIDIA H200",
        meter="nvml",
        node="n1",
        index=0,
        measured=True,
        method="nvml-counter",
        counter_period_ms=100.0,
        call_p50_us=7,
        call_p95_us=9,
        power_w=75.4,
        cross_check=check,
        ways=ways,
    )
    away = Device(gpu="GPU-2", device="NVIDIA H200", meter="nvml", node="n1", index=1, code="STALE")
    _show(Survey(meters=[Asked(meter="nvml", gpus=2)], devices=[full, away], advice=["look out"]))
    said = capsys.readouterr().out
    for part in ("1 of 2 devices", "0: NVIDIA H200", "100.0 ms", "lag not known", "7 µs", "75 W", "DISAGREE"):
        assert part in said
    assert "not measured: STALE" in said
    assert "NVML power over time (power): NOT_SUPPORTED" in said
    assert "- look out" in said
