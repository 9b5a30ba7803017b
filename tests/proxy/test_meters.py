"""A proxy whose engine's GPUs are measured elsewhere: which meter reads what, and what becomes of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from accounting.clock import Clock
from accounting.meters.several import Several
from proxy.meters import Found, FoundGpu, build, look, share, sources
from proxy.settings import Settings, SettingsError, load
from simulator.process import SimulatedEngine
from tests.accounting.meters_remote.fake_dcgm import Exported, FakeDcgm
from tests.accounting.meters_remote.fake_gpus import FakeGpu
from tests.accounting.meters_remote.fake_zeusd import FakeZeusd, issue_token
from tests.accounting.meters_remote.node import Node
from tests.proxy.stack import chat, running, until

TOKEN_NAME = "TEST_METERS_TOKEN"


@pytest.fixture
def zeusd() -> Iterator[FakeZeusd]:
    server = FakeZeusd([FakeGpu(400_000), FakeGpu(300_000)])
    yield server
    server.close()


@pytest.fixture
def dcgm() -> Iterator[FakeDcgm]:
    server = FakeDcgm([Exported("GPU-d", FakeGpu(200_000))], update_s=0.2)
    yield server
    server.close()


def settings(gpus: Any, meters: list[dict[str, Any]], **more: Any) -> Settings:
    backends = [{"id": "e", "url": "http://127.0.0.1:9", "gpus": gpus}]
    return Settings.model_validate({"backends": backends, "meters": meters, **more})


def test_requests_get_joules_from_the_meter_of_another_node(
    simulated: SimulatedEngine, tmp_path: Path
) -> None:
    assert simulated.library is not None
    node = Node(simulated.library, "a-secret")
    try:
        token = tmp_path / "token"
        token.write_text("a-secret\n")
        meter = {"source": "joulegate", "url": node.url, "token_file": str(token)}
        backends = [{"id": "engine", "url": simulated.url}]
        with running(tmp_path / "proxy", {"backends": backends, "meters": [meter]}) as stack:
            stack.post(chat(max_tokens=40), request_id="before").raise_for_status()
            record = stack.record("before")
            assert record["meter"] == "nvml-counter"
            assert record["energy_joules"] > 0
            node.kill()
            warnings = until(lambda: stack.client.get("/ready").json()["warnings"] or None, "a warning")
            assert "UNREACHABLE: joulegate meter at" in warnings[0]
            node.start()
            until(lambda: not stack.client.get("/ready").json()["warnings"], "the meter's return")
            stack.post(chat(max_tokens=40), request_id="after").raise_for_status()
            assert stack.record("after")["energy_joules"] > 0
        assert "a-secret" not in stack.proxy.log.read_text()
    finally:
        node.close()


def test_an_engine_may_have_gpus_on_several_machines(
    simulated: SimulatedEngine, tmp_path: Path, zeusd: FakeZeusd, dcgm: FakeDcgm
) -> None:
    meters = [
        {"source": "zeusd", "url": zeusd.url, "gpus": {"0": "GPU-z"}, "node": "n1"},
        {"source": "dcgm", "url": f"{dcgm.url}/metrics", "update_s": 0.2},
    ]
    backends = [{"id": "engine", "url": simulated.url}]
    with running(tmp_path, {"backends": backends, "meters": meters}) as stack:
        stack.post(chat(max_tokens=40), request_id="r").raise_for_status()
        record = stack.record("r")
        log = stack.proxy.log.read_text()
    names = {"GPU-z", "n1/0000:02:00.0", "GPU-d"}
    assert {share["gpu"] for share in record["gpus"]} == names
    assert all(f"GPU {name}: NVIDIA" in log for name in names)
    assert record["energy_joules"] > 0


def test_with_nothing_said_this_machine_is_measured_and_with_none_nothing() -> None:
    assert [one.source for one in sources(settings("all", []))] == ["nvml"]
    assert sources(settings("all", [], meter={"source": "none"})) == []
    away = [{"source": "zeusd", "url": "http://n1:4938"}]
    assert [one.source for one in sources(settings("all", away))] == ["zeusd"]
    assert sources(settings("all", away, meter={"source": "none"})) == []


def test_each_meter_is_asked_what_it_can_measure(
    zeusd: FakeZeusd, dcgm: FakeDcgm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TOKEN_NAME, issue_token(b"k", ["gpu-read"]))
    meters: list[dict[str, Any]] = [
        {"source": "zeusd", "url": zeusd.url, "gpus": {"0000:01:00.0": "GPU-z"}, "token_env": TOKEN_NAME},
        {"source": "dcgm", "url": dcgm.url},
        {"source": "joulegate", "url": "http://127.0.0.1:9"},
        {"source": "nvml"},
    ]
    found = look(settings("all", meters, meter={"library": "/nowhere/libnvidia-ml.so.1"}))
    named, others, away, local = found
    assert [gpu.gpu for gpu in named.gpus] == ["GPU-z", "127.0.0.1/0000:02:00.0"]
    assert [(gpu.gpu, gpu.method) for gpu in others.gpus] == [("GPU-d", "dcgm-counter")]
    assert away.problem is not None
    assert "joulegate meter at http://127.0.0.1:9 cannot be reached" in away.problem
    assert local.problem is not None


def found(*gpus: str, problem: str | None = None) -> Found:
    return Found("m", [FoundGpu(gpu, "d", "nvml-counter") for gpu in gpus], problem)


def test_each_meter_gets_the_gpus_that_it_has() -> None:
    wanted = ["a", "b", "c"]
    assert share([found("a", "x"), found("b", "c", "a")], wanted) == [["a"], ["a", "b", "c"]]


def test_a_gpu_that_nobody_has_is_left_to_who_did_not_answer_or_to_the_first() -> None:
    assert share([found("a"), found(problem="away")], ["a", "z"]) == [["a"], ["z"]]
    assert share([found("a"), found("b")], ["a", "b", "z"]) == [["a", "z"], ["b"]]


def test_nothing_wanted_and_no_host_is_no_meter() -> None:
    clock = Clock.anchored_now()
    assert build(settings([], []), [], clock) is None
    assert build(settings(["GPU-a"], [], meter={"source": "none"}), ["GPU-a"], clock) is None


def test_the_host_is_measured_where_that_is_wanted() -> None:
    clock = Clock.anchored_now()
    host = {"source": "estimate", "idle_w": 120.0, "name": "n1"}
    meter = build(settings([], [], host=host), [], clock)
    assert isinstance(meter, Several)
    meter.start()
    assert [event.gpu for event in meter.drain()] == ["host:n1"]
    meter.close()


@pytest.mark.parametrize(
    ("meter", "complaint"),
    [
        ({"source": "zeusd"}, "meters.0: zeusd needs a url"),
        ({"source": "nvml", "url": "http://n1:1"}, "meters.0: nvml takes no url"),
        ({"source": "dcgm", "url": "n1:9400"}, "meters.0.url: give http://host:port"),
        ({"source": "dcgm", "url": "unix:/run/x.sock"}, "meters.0: only zeusd listens on a socket"),
        (
            {"source": "zeusd", "url": "http://me:pw@n1:4938"},
            "meters.0.url: only scheme, host",
        ),
        ({"source": "zeusd", "url": "http://n1:99999"}, "meters.0.url: not a URL"),
        (
            {"source": "zeusd", "url": "http://n1:1", "token_env": "A", "token_file": "b"},
            "give token_env or token_file, not both",
        ),
        ({"source": "dcgm", "url": "http://n1:1", "gpus": {"0": "GPU-a"}}, "gpus is for zeusd only"),
        ({"source": "rapl"}, "meters.0.source"),
    ],
)
def test_a_meter_that_makes_no_sense_is_refused_with_its_place(meter: dict[str, Any], complaint: str) -> None:
    with pytest.raises(SettingsError) as error:
        load(None, {"backends": [{"id": "e", "url": "http://127.0.0.1:9"}], "meters": [meter]})
    assert complaint in str(error.value)
    assert "pw" not in str(error.value)


def test_one_server_is_not_to_be_named_twice_nor_an_estimate_without_watts() -> None:
    twice = [{"source": "zeusd", "url": "http://n1:1"}, {"source": "zeusd", "url": "http://n1:1/"}]
    backends = [{"id": "e", "url": "http://127.0.0.1:9"}]
    with pytest.raises(SettingsError, match="named twice"):
        load(None, {"backends": backends, "meters": twice})
    with pytest.raises(SettingsError, match="host: an estimate needs idle_w"):
        load(None, {"backends": backends, "host": {"source": "estimate"}})
