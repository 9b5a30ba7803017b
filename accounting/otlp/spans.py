"""An OTLP trace export, in protobuf or JSON, read down to what it says of requests.

vLLM sends a span `llm_request` for every sequence that has ended (vLLM 0.32 as observed). Its attributes
`gen_ai.latency.*` are in seconds. Of the two times to the first token that it knows, `time_in_model_prefill`
counts from scheduling and is the one that `metrics.time_to_first_token_ms` of its answers shows, so it is the
one taken here; `time_to_first_token` counts from arrival and has the queue in it.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from accounting.events import EngineTimes

SPAN = "llm_request"
REQUEST_ID = "gen_ai.request.id"
QUEUE_S = "gen_ai.latency.time_in_queue"
PREFILL_S = "gen_ai.latency.time_in_model_prefill"
DECODE_S = "gen_ai.latency.time_in_model_decode"
_WANTED = (REQUEST_ID, QUEUE_S, PREFILL_S, DECODE_S)

MAX_SECONDS = 1e7
"""Four months. A longer time is no time of a request."""

Value = str | int | float | bool | None


class Malformed(ValueError):
    """The bytes are no trace export. The message says why."""


@dataclass(frozen=True, slots=True)
class RequestSpan:
    """One sequence of a request, as its engine saw it. `request_id` is the engine's name for it."""

    request_id: str
    trace_id: bytes
    span_id: bytes
    parent_span_id: bytes
    start_us: int
    times: EngineTimes


@dataclass(frozen=True, slots=True)
class Export:
    """What one export held."""

    spans: Sequence[RequestSpan]
    others: int = 0
    """Spans of something else."""
    faulty: Sequence[str] = ()
    """Spans of requests that cannot be used: what is wrong with each."""


def read_protobuf(body: bytes) -> Export:
    """Raises Malformed."""
    request = ExportTraceServiceRequest()
    try:
        request.ParseFromString(body)
    except DecodeError as error:
        raise Malformed("the body is not an ExportTraceServiceRequest") from error
    reader = _Reader()
    for resource in request.resource_spans:
        for scope in resource.scope_spans:
            for span in scope.spans:
                if span.name != SPAN:
                    reader.others += 1
                    continue
                values: dict[str, Value] = {}
                for pair in span.attributes:
                    if pair.key in _WANTED:
                        kind = pair.value.WhichOneof("value")
                        values[pair.key] = getattr(pair.value, kind) if kind is not None else None
                ids = (span.trace_id, span.span_id, span.parent_span_id)
                reader.add(ids, span.start_time_unix_nano, values)
    return reader.export()


# JSON as OTLP 1.x defines it: lowerCamelCase, ids in hexadecimal, 64-bit integers as text or number, unknown
# fields passed over.


class _Any(msgspec.Struct, rename="camel"):
    string_value: str | None = None
    int_value: int | str | None = None
    double_value: float | str | None = None

    def value(self) -> Value:
        if self.string_value is not None:
            return self.string_value
        number = self.int_value if self.int_value is not None else self.double_value
        try:
            return float(number) if isinstance(number, str) else number
        except ValueError:
            return number


class _Attribute(msgspec.Struct):
    key: str = ""
    value: _Any = msgspec.field(default_factory=_Any)


class _Span(msgspec.Struct, rename="camel"):
    name: str = ""
    trace_id: str = ""
    span_id: str = ""
    parent_span_id: str = ""
    start_time_unix_nano: int | str = 0
    attributes: list[_Attribute] = []


class _Scope(msgspec.Struct, rename="camel"):
    spans: list[_Span] = []


class _Resource(msgspec.Struct, rename="camel"):
    scope_spans: list[_Scope] = []


class _Request(msgspec.Struct, rename="camel"):
    resource_spans: list[_Resource] = []


_decoder = msgspec.json.Decoder(_Request)


def read_json(body: bytes) -> Export:
    """Raises Malformed."""
    try:
        request = _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(f"the body is not an ExportTraceServiceRequest: {error}") from error
    reader = _Reader()
    for span in (s for r in request.resource_spans for scope in r.scope_spans for s in scope.spans):
        if span.name != SPAN:
            reader.others += 1
            continue
        values = {a.key: a.value.value() for a in span.attributes if a.key in _WANTED}
        try:
            start_ns = int(span.start_time_unix_nano)
        except ValueError:
            reader.faulty.append("startTimeUnixNano is no number")
            continue
        ids = (_id(span.trace_id, 16), _id(span.span_id, 8), _id(span.parent_span_id, 8))
        reader.add(ids, start_ns, values)
    return reader.export()


def _id(text: str, length: int) -> bytes:
    """The bytes of an id; empty where it is none.

    Hexadecimal, or base64 from senders that write protobuf's JSON instead of OTLP's.
    """
    for read in (bytes.fromhex, lambda t: base64.b64decode(t, validate=True)):
        try:
            found = read(text)
        except (ValueError, binascii.Error):
            continue
        if len(found) == length:
            return found
    return b""


class _Reader:
    """Takes spans of requests, one after the other."""

    def __init__(self) -> None:
        self.spans: list[RequestSpan] = []
        self.others = 0
        self.faulty: list[str] = []

    def add(self, ids: tuple[bytes, bytes, bytes], start_ns: int, values: Mapping[str, Value]) -> None:
        request_id = values.get(REQUEST_ID)
        try:
            if request_id is not None and not isinstance(request_id, str):
                raise ValueError(f"{REQUEST_ID} is no text")
            times = EngineTimes(
                queue_ms=_milliseconds(values, QUEUE_S),
                first_token_ms=_milliseconds(values, PREFILL_S),
                generation_ms=_milliseconds(values, DECODE_S),
            )
        except ValueError as error:
            self.faulty.append(str(error))
            return
        if times == EngineTimes():
            self.others += 1  # sound, but without anything to tell
            return
        self.spans.append(RequestSpan(request_id or "", *ids, start_ns // 1000, times))

    def export(self) -> Export:
        return Export(self.spans, self.others, self.faulty)


def _milliseconds(values: Mapping[str, Value], name: str) -> float | None:
    """A time in seconds. None where it is not given; raises ValueError where it is no time."""
    seconds = values.get(name)
    if seconds is None:
        return None
    if isinstance(seconds, (bool, str)) or not math.isfinite(seconds) or not 0 <= seconds < MAX_SECONDS:
        raise ValueError(f"{name} is not a time in seconds")
    return seconds * 1000.0
