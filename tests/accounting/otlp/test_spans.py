"""What is read from a trace export."""

from __future__ import annotations

import base64
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accounting.events import EngineTimes
from accounting.otlp.spans import Malformed, read_json, read_protobuf
from tests.accounting.otlp.exports import PARENT, START_US, TIMES, TRACE, encoded, span


def as_json(**changes: Any) -> dict[str, Any]:
    """The same span in OTLP's JSON."""
    kinds = {float: "doubleValue", int: "intValue"}
    values = [{"key": k, "value": {kinds[type(v)]: v}} for k, v in TIMES.items()]
    values.append({"key": "gen_ai.request.id", "value": {"stringValue": "chatcmpl-a"}})
    one = {
        "name": "llm_request",
        "traceId": TRACE.hex(),
        "spanId": "00000000000000aa",
        "parentSpanId": PARENT.hex(),
        "kind": 2,
        "startTimeUnixNano": str(START_US * 1000),
        "attributes": values,
        "status": {},
    }
    return {"resourceSpans": [{"resource": {}, "scopeSpans": [{"scope": {}, "spans": [one | changes]}]}]}


def test_times_are_milliseconds_and_the_prefill_counts_from_scheduling() -> None:
    (found,) = read_protobuf(encoded(span("chatcmpl-a", parent_span_id=PARENT))).spans
    assert found.times == EngineTimes(queue_ms=250.0, first_token_ms=125.0, generation_ms=2000.0)
    assert (found.request_id, found.trace_id, found.parent_span_id) == ("chatcmpl-a", TRACE, PARENT)
    assert found.start_us == START_US


def test_json_says_the_same_as_protobuf() -> None:
    (proto,) = read_protobuf(
        encoded(span("chatcmpl-a", parent_span_id=PARENT, span_id=b"\0" * 7 + b"\xaa"))
    ).spans
    assert read_json(json.dumps(as_json()).encode()).spans == [proto]


def test_ids_in_base64_are_understood_as_well() -> None:
    ids = {"traceId": base64.b64encode(TRACE).decode(), "parentSpanId": base64.b64encode(PARENT).decode()}
    (found,) = read_json(json.dumps(as_json(**ids)).encode()).spans
    assert (found.trace_id, found.parent_span_id) == (TRACE, PARENT)


def test_numbers_may_be_text_in_json() -> None:
    value = {"key": "gen_ai.latency.time_in_queue", "value": {"intValue": "3"}}
    body = as_json(attributes=[value], startTimeUnixNano=START_US * 1000)
    (found,) = read_json(json.dumps(body).encode()).spans
    assert found.times == EngineTimes(queue_ms=3000.0)
    assert found.start_us == START_US


def test_a_time_that_is_not_told_is_none_and_one_of_0_is_0() -> None:
    (found,) = read_protobuf(encoded(span("embd-a-0", decode=0.0, queue=None))).spans
    assert found.times == EngineTimes(queue_ms=None, first_token_ms=125.0, generation_ms=0.0)


def test_spans_of_something_else_are_counted_only() -> None:
    bare = span("without times", queue=None, prefill=None, decode=None)
    read = read_protobuf(encoded(span("a", name="Load model"), span("b"), bare))
    assert [found.request_id for found in read.spans] == ["b"]
    assert (read.others, read.faulty) == (2, [])


@pytest.mark.parametrize("seconds", [-1.0, math.nan, math.inf, 1e300, "0.1", True, 1 << 60])
def test_a_span_with_a_time_that_is_none_is_faulty_and_the_next_is_read(seconds: object) -> None:
    read = read_protobuf(encoded(span("a", prefill=seconds), span("b")))
    assert [found.request_id for found in read.spans] == ["b"]
    assert read.faulty == ["gen_ai.latency.time_in_model_prefill is not a time in seconds"]


def test_faults_in_json_are_found_span_by_span() -> None:
    value = {"key": "gen_ai.latency.time_in_queue", "value": {"doubleValue": "soon"}}
    assert len(read_json(json.dumps(as_json(attributes=[value])).encode()).faulty) == 1
    value["value"] = {"doubleValue": "NaN"}
    assert len(read_json(json.dumps(as_json(attributes=[value])).encode()).faulty) == 1
    assert len(read_json(json.dumps(as_json(startTimeUnixNano="noon")).encode()).faulty) == 1
    number = {"key": "gen_ai.request.id", "value": {"intValue": 3}}
    assert len(read_json(json.dumps(as_json(attributes=[number])).encode()).faulty) == 1


def test_an_empty_export_holds_nothing() -> None:
    for read in (read_protobuf(b""), read_json(b"{}")):
        assert (list(read.spans), read.others, list(read.faulty)) == ([], 0, [])


@pytest.mark.parametrize("body", [b"nonsense", b"\xff" * 40, encoded(span("a"))[:-3]])
def test_what_is_no_protobuf_is_malformed(body: bytes) -> None:
    with pytest.raises(Malformed):
        read_protobuf(body)


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'{"resourceSpans": 3}', b'{"resourceSpans": [{"scopeSpans": [[]]}]}', b"\xff"]
)
def test_what_is_no_export_in_json_is_malformed(body: bytes) -> None:
    with pytest.raises(Malformed):
        read_json(body)


def test_json_nested_without_end_is_malformed() -> None:
    with pytest.raises(Malformed):
        read_json(b'{"a":' + b"[" * 100_000)


@given(st.binary(max_size=200), st.integers(0, 400))
def test_whatever_the_bytes_are_they_are_read_or_malformed(noise: bytes, place: int) -> None:
    sound = encoded(span("a"))
    for body in (noise, sound[:place] + noise + sound[place:]):
        for read in (read_protobuf, read_json):
            try:
                found = read(body)
            except Malformed:
                continue
            times = [time for s in found.spans for time in (s.times.queue_ms, s.times.generation_ms)]
            assert all(time is None or 0 <= time < math.inf for time in times)
