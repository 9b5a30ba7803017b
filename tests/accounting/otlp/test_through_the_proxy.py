"""A running proxy takes traces: what engines tell ends in its journal, under the request it belongs to."""

from __future__ import annotations

import re
from collections.abc import Iterator

import httpx
import pytest

from accounting.events import AnyEvent, EngineCounters, EngineTimes, RequestStarted, RequestTimes
from accounting.journal import Segment, segment_paths
from proxy.settings import SettingsError, load
from simulator.process import SimulatedEngine
from tests.accounting.otlp.exports import PARENT, TRACE, TRACEPARENT, encoded, export, send, span
from tests.proxy.stack import Stack, chat, running, until

BACKEND = {"id": "engine", "url": "http://127.0.0.1:9"}


@pytest.fixture(scope="module")
def traced(simulated: SimulatedEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    settings = {
        "backends": [{"id": "engine", "url": simulated.url}],
        "meter": {"source": "none"},
        "otlp": {"enabled": True, "grpc_port": 0, "http_port": 0},
        "engine_metrics": {"busy_period_s": 0.1, "idle_period_s": 0.2},
    }
    with running(tmp_path_factory.mktemp("traced"), settings) as one:
        yield one


def port(stack: Stack, way: str) -> int:
    found = re.search(rf"taking traces by {way} on 127\.0\.0\.1:(\d+)", stack.proxy.log.read_text())
    assert found is not None
    return int(found[1])


def events(stack: Stack) -> list[AnyEvent]:
    paths = segment_paths(stack.proxy.data_dir / "journal")
    return [event for path in paths for event in Segment(path).events()]


def times_of(stack: Stack, request_id: str) -> EngineTimes:
    """The times told of a request, once they are in the journal."""

    def told() -> EngineTimes | None:
        known = events(stack)
        (handle,) = [e.handle for e in known if isinstance(e, RequestStarted) and e.request_id == request_id]
        times = [e.times for e in known if isinstance(e, RequestTimes) and e.handle == handle]
        return times[0] if times else None

    return until(told, f"times of {request_id}")


def test_a_span_by_grpc_is_told_of_its_request(traced: Stack) -> None:
    assert traced.post(chat(), request_id="traced-1").status_code == 200
    send(f"127.0.0.1:{port(traced, 'gRPC')}", export(span("chatcmpl-traced-1", decode=1.5)))
    assert times_of(traced, "traced-1").generation_ms == 1500.0


def test_a_span_by_http_is_told_of_the_request_of_its_trace(traced: Stack) -> None:
    assert traced.post(chat(), request_id="traced-2", traceparent=TRACEPARENT).status_code == 200
    assert traced.post(chat(), request_id="traced-3").status_code == 200
    unnamed = encoded(span("chatcmpl-of-the-engine", trace_id=TRACE, parent_span_id=PARENT, queue=0.5))
    url = f"http://127.0.0.1:{port(traced, 'HTTP')}/v1/traces"
    assert (
        httpx.post(url, content=unnamed, headers={"content-type": "application/x-protobuf"}).status_code
        == 200
    )
    assert times_of(traced, "traced-2").queue_ms == 500.0
    assert httpx.post(url, json={"resourceSpans": 1}).status_code == 400
    metrics = traced.client.get("/metrics").text.splitlines()
    assert "joulegate_otlp_malformed_total 1.0" in metrics
    assert traced.proxy.log.read_text().count("Traceback") == 0


def test_the_counters_of_the_engine_are_in_the_journal(traced: Stack) -> None:
    def told(least: int) -> EngineCounters | None:
        counters = [e for e in events(traced) if isinstance(e, EngineCounters)]
        return counters[-1] if counters and (counters[-1].generation_tokens or 0) >= least else None

    before = until(lambda: told(0), "counters")
    assert traced.post(chat(max_tokens=7)).status_code == 200
    after = until(lambda: told((before.generation_tokens or 0) + 7), "counters after 7 tokens")
    assert after.backend == "engine"
    assert after.steps is not None
    assert before.steps is not None
    assert after.steps - before.steps >= 7


def test_traces_are_not_taken_unless_asked_for() -> None:
    assert not load(given={"backends": [BACKEND]}).otlp.enabled


@pytest.mark.parametrize(
    ("otlp", "says"),
    [
        ({"grpc_port": None, "http_port": None}, "otlp: give a grpc_port or an http_port"),
        ({"grpc_port": 70000}, "otlp.grpc_port"),
    ],
)
def test_settings_that_leave_no_way_in_are_refused(otlp: dict[str, object], says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        load(given={"backends": [BACKEND], "otlp": {"enabled": True, **otlp}})


@pytest.mark.parametrize("missing", ["grpc", "opentelemetry.proto"])
def test_settings_say_what_is_missing(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def find_spec(name: str) -> object:
        if name == "opentelemetry.proto" and missing == name:
            raise ModuleNotFoundError(name)
        return None if name == missing else object()

    monkeypatch.setattr("proxy.settings.find_spec", find_spec)
    with pytest.raises(SettingsError, match=r"traces need the extra packages of joulegate\[otlp\]"):
        load(given={"backends": [BACKEND], "otlp": {"enabled": True}})
    assert load(given={"backends": [BACKEND]}).otlp.grpc_port == 4317
