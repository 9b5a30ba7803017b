"""The two ways in, each with a client as engines use it."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
from collections.abc import Iterator

import grpc
import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceResponse,
)
from prometheus_client import CollectorRegistry, generate_latest

from accounting.events import EngineTimes, RequestTimes
from accounting.otlp import OtlpError
from accounting.otlp.directory import Directory
from accounting.otlp.receiver import Receiver
from accounting.otlp.serve import JSON, MAX_BYTES, PROTOBUF, SERVICE, receiving
from accounting.otlp.spans import read_protobuf
from tests.accounting.otlp.exports import Taking, encoded, export, send, span, started, taking

EXPECTED = EngineTimes(queue_ms=250.0, first_token_ms=125.0, generation_ms=2000.0)
DEADLINE_S = 30.0


@pytest.fixture
def here() -> Iterator[Taking]:
    with taking() as taker:
        taker.directory.event(started(5, "r"))
        yield taker


def post(here: Taking, body: bytes, kind: str = PROTOBUF, **headers: str) -> httpx.Response:
    named = {"content-type": kind} | {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.post(here.http, content=body, headers=named, timeout=DEADLINE_S)


def json_span(attributes: list[object]) -> bytes:
    one = {"name": "llm_request", "traceId": "", "spanId": "", "attributes": attributes}
    return json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": [one]}]}]}).encode()


def test_a_span_sent_by_grpc_becomes_times_of_its_request() -> None:
    with taking() as here:
        here.directory.event(started(5, "r"))
        assert send(here.grpc, export(span("chatcmpl-r"))) == ExportTraceServiceResponse()
    assert here.said == [RequestTimes(t_us=77, handle=5, times=EXPECTED)]
    assert here.receiver.spans == {"matched": 1, "other": 0, "faulty": 0}


def test_a_span_sent_by_http_becomes_times_of_its_request(here: Taking) -> None:
    answer = post(here, encoded(span("cmpl-r-0")))
    assert (answer.status_code, answer.headers["content-type"], answer.content) == (200, PROTOBUF, b"")
    assert here.said == [RequestTimes(t_us=77, handle=5, times=EXPECTED)]


def test_a_span_sent_as_json_becomes_times_of_its_request(here: Taking) -> None:
    attributes: list[object] = [
        {"key": "gen_ai.request.id", "value": {"stringValue": "chatcmpl-r"}},
        {"key": "gen_ai.latency.time_in_queue", "value": {"doubleValue": 0.25}},
    ]
    answer = post(here, json_span(attributes), f"{JSON}; charset=utf-8")
    assert (answer.status_code, answer.headers["content-type"].split(";")[0], answer.json()) == (
        200,
        JSON,
        {},
    )
    assert here.said == [RequestTimes(t_us=77, handle=5, times=EngineTimes(queue_ms=250.0))]


def test_compressed_exports_are_understood(here: Taking) -> None:
    answer = post(here, gzip.compress(encoded(span("cmpl-r-0"))), content_encoding="gzip")
    assert answer.status_code == 200
    send(here.grpc, export(span("cmpl-r-0")), compression=grpc.Compression.Gzip)
    assert post(here, encoded(span("cmpl-r-0"))).status_code == 200
    assert [event.handle for event in here.said] == [5, 5, 5]


def test_each_sequence_of_a_request_is_told(here: Taking) -> None:
    post(here, encoded(span("chatcmpl-r", decode=1.0), span("chatcmpl-r", decode=1.5)))
    assert [event.times.generation_ms for event in here.said] == [1000.0, 1500.0]


def test_a_span_that_is_sent_again_is_told_once(here: Taking) -> None:
    body = encoded(span("chatcmpl-r"))
    assert [post(here, body).status_code for _ in range(3)] == [200, 200, 200]
    assert len(here.said) == 1
    assert here.receiver.spans["repeated"] == 2


def test_spans_of_others_are_passed_over_and_counted(here: Taking) -> None:
    answer = send(
        here.grpc, export(span("chatcmpl-stranger"), span("r", name="Load model"), span("chatcmpl-r"))
    )
    assert not answer.HasField("partial_success")
    assert post(here, encoded(span("chatcmpl-r"))).status_code == 200
    assert here.receiver.spans == {"matched": 2, "unknown": 1, "other": 1, "faulty": 0}
    registry = CollectorRegistry()
    registry.register(here.receiver)
    lines = generate_latest(registry).decode().splitlines()
    assert 'joulegate_otlp_spans_total{outcome="unknown"} 1.0' in lines
    assert "joulegate_otlp_malformed_total 0.0" in lines


def test_spans_that_make_no_sense_are_rejected_and_the_others_taken(here: Taking) -> None:
    spans = (span("chatcmpl-r", queue=-1.0), span("chatcmpl-r", decode="long"), span("chatcmpl-r"))
    partial = send(here.grpc, export(*spans)).partial_success
    assert partial.rejected_spans == 2
    assert partial.error_message == "gen_ai.latency.time_in_queue is not a time in seconds"
    assert (
        ExportTraceServiceResponse.FromString(post(here, encoded(*spans)).content).partial_success == partial
    )
    attribute = {"key": "gen_ai.latency.time_in_queue", "value": {"stringValue": "x"}}
    told = post(here, json_span([attribute]), JSON).json()["partialSuccess"]
    assert told == {"rejectedSpans": "1", "errorMessage": partial.error_message}
    assert here.receiver.spans["faulty"] == 5


def test_what_is_no_export_is_an_invalid_argument() -> None:
    with taking() as here:
        with grpc.insecure_channel(here.grpc) as channel:
            method = channel.unary_unary(f"/{SERVICE}/Export")
            with pytest.raises(grpc.RpcError) as caught:
                method(b"nonsense", timeout=DEADLINE_S)
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        bad = post(here, b"nonsense")
        status = ExportTracePartialSuccess.FromString(bad.content)
        assert (bad.status_code, bad.headers["content-type"], status.rejected_spans) == (400, PROTOBUF, 3)
        assert "not an ExportTraceServiceRequest" in status.error_message
        bad = post(here, b"nonsense", JSON)
        assert (bad.status_code, bad.json()["code"]) == (400, 3)
        assert send(here.grpc, export()) == ExportTraceServiceResponse()
    assert here.receiver.malformed == 3
    assert here.said == []


@pytest.mark.parametrize("body", [b"no gzip", gzip.compress(encoded(span("chatcmpl-r")), mtime=0)[:-40]])
def test_a_body_that_cannot_be_unpacked_is_a_bad_request_and_the_next_is_taken(
    here: Taking, body: bytes
) -> None:
    assert post(here, body, content_encoding="gzip").status_code == 400
    assert post(here, encoded(span("chatcmpl-r"))).status_code == 200
    assert (len(here.said), here.receiver.malformed) == (1, 1)


def test_a_sender_that_leaves_in_the_middle_harms_nobody(
    here: Taking, caplog: pytest.LogCaptureFixture
) -> None:
    body = encoded(span("chatcmpl-r"))
    with socket.create_connection(("127.0.0.1", here.http_port)) as leaving:
        head = (
            f"POST /v1/traces HTTP/1.1\r\nhost: x\r\ncontent-type: {PROTOBUF}\r\ncontent-length: {len(body)}"
        )
        leaving.sendall(head.encode() + b"\r\n\r\n" + body[:-10])
    with socket.create_connection(("127.0.0.1", here.grpc_port)) as leaving:
        leaving.sendall(b"GET / HTTP/1.1\r\n\r\n")
    assert post(here, body).status_code == 200
    assert len(here.said) == 1
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


def test_an_export_that_is_too_large_is_refused_however_small_it_was_packed(here: Taking) -> None:
    large = b"\0" * (MAX_BYTES + 1)
    assert post(here, large).status_code == 413
    assert post(here, gzip.compress(large), content_encoding="gzip").status_code == 413
    with grpc.insecure_channel(here.grpc) as channel:
        method = channel.unary_unary(f"/{SERVICE}/Export")
        with pytest.raises(grpc.RpcError) as caught:
            method(large, timeout=DEADLINE_S)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_other_kinds_methods_paths_and_services_are_refused(here: Taking) -> None:
    assert post(here, b"", "text/plain").status_code == 415
    assert httpx.get(here.http).status_code == 405
    assert httpx.post(here.http.replace("traces", "logs")).status_code == 404
    with grpc.insecure_channel(here.grpc) as channel:
        method = channel.unary_unary("/opentelemetry.proto.collector.logs.v1.LogsService/Export")
        with pytest.raises(grpc.RpcError) as caught:
            method(b"", timeout=DEADLINE_S)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_a_port_that_is_taken_is_told() -> None:
    async def serve(grpc_port: int | None, http_port: int | None) -> None:
        receiver = Receiver(Directory(), list[RequestTimes]().append, lambda: 0)
        async with receiving(receiver, "127.0.0.1", grpc_port, http_port):
            pytest.fail("it listens")

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for ports in ((port, None), (None, port)):
            with pytest.raises(OtlpError, match=f"cannot listen on 127.0.0.1:{port} for traces"):
                asyncio.run(serve(*ports))


def test_a_way_without_a_port_is_not_there() -> None:
    async def serve() -> tuple[int | None, int | None]:
        receiver = Receiver(Directory(), list[RequestTimes]().append, lambda: 0)
        async with receiving(receiver, "127.0.0.1", None, 0) as ports:
            return ports

    grpc_port, http_port = asyncio.run(serve())
    assert grpc_port is None
    assert http_port is not None


def test_repetitions_are_noticed_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("accounting.otlp.receiver.REMEMBERED", 2)
    directory, said = Directory(), list[RequestTimes]()
    receiver = Receiver(directory, said.append, lambda: 0)
    directory.event(started(5, "r"))
    bodies = [encoded(span("chatcmpl-r")) for _ in range(3)]
    for body in (*bodies, bodies[2], bodies[0]):
        receiver.take(read_protobuf(body))
    assert (len(said), receiver.spans["repeated"]) == (4, 1)
