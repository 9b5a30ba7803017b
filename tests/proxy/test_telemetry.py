"""A span per request: where it hangs, what it says, when it is sent."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

import httpx
import msgspec
import pytest

from accounting.events import AnyEvent, RequestFinished, RequestMoved, RequestStarted
from proxy.settings_observe import Telemetry as Settings
from proxy.telemetry import Span, Telemetry, parse
from simulator.process import SimulatedEngine
from tests.accounting.otlp.exports import encoded
from tests.accounting.otlp.exports import span as span_of_engine
from tests.accounting.otlp.test_through_the_proxy import port, times_of
from tests.accounting.store.examples import record
from tests.proxy.collector import Collector, attributes
from tests.proxy.raw_engine import RawEngine, whole
from tests.proxy.stack import Stack, chat, metered, running, until

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED, UNSAMPLED = f"00-{TRACE}-{PARENT}-01", f"00-{TRACE}-{PARENT}-00"


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "nonsense",
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{PARENT}-01",
        f"00-{TRACE}-{PARENT}-01-more",
        f"00-{TRACE}-{PARENT}",
    ],
)
def test_a_traceparent_that_is_not_sound_counts_as_none(header: str | None) -> None:
    assert parse(header) is None


def test_a_later_version_of_the_header_may_be_longer() -> None:
    assert parse(f"cc-{TRACE}-{PARENT}-01-what-the-future-brings") == (TRACE, PARENT, 1)


def telling(**settings: object) -> Telemetry:
    return Telemetry(Settings.model_validate({"enabled": True, **settings}))


def started(telemetry: Telemetry, handle: int, uid: str) -> None:
    telemetry.event(
        RequestStarted(t_us=0, handle=handle, uid=uid, request_id="r", backend="b", model="m", route="/v1/x")
    )


def finished(handle: int) -> AnyEvent:
    return RequestFinished(t_us=1, handle=handle, status="ok")


def test_a_sampled_request_keeps_its_trace_and_hangs_under_its_parent() -> None:
    span = telling().begin(SAMPLED)
    assert span is not None
    assert (span.trace_id, span.parent_id) == (TRACE, PARENT)
    assert span.traceparent == f"00-{TRACE}-{span.span_id}-01"
    assert span.span_id not in (PARENT, "0" * 16)


def test_an_unsampled_request_and_a_disabled_telemetry_have_no_span() -> None:
    assert telling().begin(UNSAMPLED) is None
    assert Telemetry(Settings()).begin(SAMPLED) is None


def test_the_sample_bounds_new_traces_and_not_those_of_others() -> None:
    none = telling(sample=0.0)
    assert none.begin(None) is None
    assert none.begin(SAMPLED) is not None
    some = telling(sample=0.25)
    assert 150 < sum(some.begin(None) is not None for _ in range(1000)) < 350


class Told(NamedTuple):
    telemetry: Telemetry
    now_s: list[float]


def waiting() -> Told:
    """A telemetry with one span whose request has ended at 100 s, not settled yet."""
    now_s = [100.0]
    telemetry = Telemetry(Settings(enabled=True, wait_s=3.0), now_s=lambda: now_s[0])
    telemetry.begin(None)
    started(telemetry, 7, record(1).uid)
    telemetry.event(finished(7))
    return Told(telemetry, now_s)


def test_a_span_is_sent_as_soon_as_its_joules_are_final() -> None:
    telemetry, _ = waiting()
    assert telemetry.take() == []
    telemetry.output(record(1))
    assert [span.record for span in telemetry.take()] == [record(1)]
    assert telemetry.take() == []


def test_a_span_whose_joules_are_late_is_sent_with_the_provisional_ones() -> None:
    telemetry, now_s = waiting()
    early = msgspec.structs.replace(record(1), state="provisional")
    telemetry.provisional = lambda handle: early if handle == 7 else None
    now_s[0] = 102.9
    assert telemetry.take() == []
    now_s[0] = 103.1
    (span,) = telemetry.take()
    assert span.record is early
    telemetry.output(record(1))  # too late: a span is sent once
    assert telemetry.take() == []


def test_a_request_without_a_span_does_not_take_that_of_another() -> None:
    telemetry = telling(sample=0.0)
    telemetry.begin(SAMPLED)
    started(telemetry, 1, "first")
    telemetry.begin(None)
    started(telemetry, 2, "second")
    telemetry.event(finished(2))
    telemetry.event(finished(1))
    telemetry.output(msgspec.structs.replace(record(1), uid="second"))
    assert telemetry.take() == []


def test_a_request_that_is_tried_again_has_one_span_that_counts_its_tries() -> None:
    telemetry = telling()
    span = telemetry.begin(None)
    assert span is not None
    started(telemetry, 1, "first")
    telemetry.event(RequestMoved(t_us=1, handle=1, backend="other"))
    telemetry.event(finished(1))
    telemetry.output(msgspec.structs.replace(record(1), uid="first"))
    assert telemetry.take() == [span]
    assert span.tries == 2


def test_spans_that_nobody_takes_are_bounded_and_the_oldest_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.telemetry.MAX_WAITING", 3)
    telemetry = telling()
    spans = [Span(TRACE, f"{n:016x}", PARENT, 1) for n in range(5)]
    telemetry.give_back(spans)
    assert (telemetry.take(), telemetry.dropped) == (spans[2:], 2)


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector() as one:
        yield one


@pytest.fixture(scope="module")
def traced(
    collector: Collector, simulated: SimulatedEngine, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    settings = metered(simulated, telemetry={"enabled": True, "endpoint": collector.url})
    environment = {**os.environ, "OTEL_EXPORTER_OTLP_HEADERS": "x-key=a%20secret"}
    with running(tmp_path_factory.mktemp("traced"), settings, environment=environment) as stack:
        yield stack


def test_a_span_says_what_the_request_used_and_cost(traced: Stack, collector: Collector) -> None:
    request_id = str(uuid4())
    traced.post(
        chat(stream=True, max_tokens=20), request_id=request_id, traceparent=SAMPLED, x_joulegate_tenant="t"
    )
    span = until(lambda: collector.span(request_id), "the span is there")
    assert (span["name"], span["kind"], span["parentSpanId"]) == ("chat tiny", 2, PARENT)
    assert (span["traceId"], "status" in span) == (TRACE, False)
    said, kept = attributes(span), traced.record(request_id)
    assert (said["gen_ai.operation.name"], said["gen_ai.request.model"]) == ("chat", "tiny")
    assert said["gen_ai.usage.output_tokens"] == kept["completion_tokens"] == 20
    assert said["gen_ai.usage.input_tokens"] == kept["prompt_tokens"]
    assert said["joulegate.energy.state"] == "final"
    assert said["joulegate.energy.joules"] == kept["energy_joules"] > 0
    assert said["joulegate.request.uid"] == kept["id"]
    assert (said["joulegate.tenant"], said["http.response.status_code"]) == ("t", 200)
    assert "error.type" not in said
    assert int(span["startTimeUnixNano"]) < int(span["events"][0]["timeUnixNano"])
    assert int(span["events"][0]["timeUnixNano"]) <= int(span["endTimeUnixNano"])
    assert collector.resources[-1]["service.name"] == "joulegate"
    assert collector.asked[-1]["x-key"] == "a secret"


def test_a_refused_request_says_so(traced: Stack, collector: Collector) -> None:
    request_id = str(uuid4())
    traced.post(chat(max_tokens=-1), request_id=request_id, traceparent=SAMPLED)
    span = until(lambda: collector.span(request_id), "the span is there")
    said = attributes(span)
    assert (said["error.type"], said["http.response.status_code"]) == ("client_error", 400)
    assert "status" not in span  # of a server's span a 4xx is no error (OpenTelemetry's HTTP conventions)


def test_the_engine_is_given_our_span_as_parent_or_the_header_as_it_came(
    collector: Collector, tmp_path: Path
) -> None:
    settings = {"meter": {"source": "none"}, "telemetry": {"enabled": True, "endpoint": collector.url}}
    with (
        RawEngine() as raw,
        running(tmp_path, {"backends": [{"id": "raw", "url": raw.url}], **settings}) as stack,
    ):
        ids = [str(uuid4()) for _ in range(3)]
        for request_id, headers in zip(
            ids, ({"traceparent": SAMPLED}, {"traceparent": UNSAMPLED}, {}), strict=True
        ):
            raw.answer(whole(b"{}"))
            stack.post(chat(model="raw"), request_id=request_id, **headers)
        sampled, unsampled, new = (one.all("traceparent") for one in raw.received)
        ours = until(lambda: collector.span(ids[0]), "the first span")
        assert sampled == [f"00-{TRACE}-{ours['spanId']}-01"]
        assert unsampled == [UNSAMPLED]
        begun = until(lambda: collector.span(ids[2]), "the third span")
        assert new == [f"00-{begun['traceId']}-{begun['spanId']}-01"]
        assert (begun["parentSpanId"], collector.span(ids[1])) == ("", None)


def test_an_engines_span_under_ours_is_told_of_its_request(
    collector: Collector, simulated: SimulatedEngine, tmp_path: Path
) -> None:
    settings = {
        "backends": [{"id": "engine", "url": simulated.url}],
        "meter": {"source": "none"},
        "otlp": {"enabled": True, "grpc_port": None, "http_port": 0},
        "telemetry": {"enabled": True, "endpoint": collector.url},
    }
    with running(tmp_path, settings) as stack:
        request_id = str(uuid4())
        stack.post(chat(), request_id=request_id, traceparent=SAMPLED)
        ours = until(lambda: collector.span(request_id), "our span")
        parent = bytes.fromhex(ours["spanId"])
        of_engine = span_of_engine(
            "named-by-the-engine", trace_id=bytes.fromhex(TRACE), parent_span_id=parent, queue=0.5
        )
        url = f"http://127.0.0.1:{port(stack, 'HTTP')}/v1/traces"
        protobuf = {"content-type": "application/x-protobuf"}
        httpx.post(url, content=encoded(of_engine), headers=protobuf).raise_for_status()
        assert times_of(stack, request_id).queue_ms == 500.0


def test_spans_wait_for_a_collector_that_is_away_and_none_is_lost(tmp_path: Path) -> None:
    with Collector(status=503) as collector, RawEngine() as raw:
        settings = {"meter": {"source": "none"}, "telemetry": {"enabled": True, "endpoint": collector.url}}
        with running(tmp_path, {"backends": [{"id": "raw", "url": raw.url}], **settings}) as stack:
            ids = [str(uuid4()) for _ in range(3)]
            for request_id in ids:
                raw.answer(whole(b"{}"))
                stack.post(chat(model="raw"), request_id=request_id)
            until(lambda: bool(collector.asked), "an export was refused")
            assert collector.spans == []
            collector.status = 200
        # stopped meanwhile: what was left has been sent at the end, if not before
        assert all(collector.span(request_id) is not None for request_id in ids)
