"""Trace exports such as vLLM sends, and a receiver that takes them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span

from accounting.events import RequestStarted, RequestTimes
from accounting.otlp.directory import Directory
from accounting.otlp.receiver import Receiver
from accounting.otlp.serve import SERVICE, receiving

TRACE, PARENT = bytes(range(16)), bytes(range(8, 16))
TRACEPARENT = f"00-{TRACE.hex()}-{PARENT.hex()}-01"
START_US = 1_795_370_925_525_286

TIMES: Mapping[str, object] = {
    "gen_ai.latency.time_to_first_token": 0.5,
    "gen_ai.latency.e2e": 2.5,
    "gen_ai.latency.time_in_queue": 0.25,
    "gen_ai.latency.time_in_model_prefill": 0.125,
    "gen_ai.latency.time_in_model_decode": 2.0,
    "gen_ai.latency.time_in_model_inference": 2.125,
    "gen_ai.usage.prompt_tokens": 10,
    "gen_ai.usage.completion_tokens": 8,
}
"""Attributes of a span, but for the id: 250 ms queue, 125 ms prefill, 2 s decode."""

_numbers = iter(range(1, 1 << 62))


def any_value(value: object) -> AnyValue:
    if isinstance(value, bool):
        return AnyValue(bool_value=value)
    if isinstance(value, int):
        return AnyValue(int_value=value)
    if isinstance(value, float):
        return AnyValue(double_value=value)
    return AnyValue(string_value=str(value))


def span(
    request_id: str | None,
    *,
    name: str = "llm_request",
    trace_id: bytes = TRACE,
    span_id: bytes | None = None,
    parent_span_id: bytes = b"",
    start_us: int = START_US,
    **changes: object,
) -> Span:
    """A span of vLLM's for a request that it calls `request_id`.

    `changes` replace attributes whose name ends so, such as `decode=1.0`; None leaves one out.
    """
    values: dict[str, object] = dict(TIMES)
    for short, value in changes.items():
        (full,) = [key for key in values if key.endswith(short)]
        values[full] = value
    values["gen_ai.request.id"] = request_id
    return Span(
        name=name,
        trace_id=trace_id,
        span_id=span_id or next(_numbers).to_bytes(8, "big"),
        parent_span_id=parent_span_id,
        start_time_unix_nano=start_us * 1000,
        attributes=[KeyValue(key=k, value=any_value(v)) for k, v in values.items() if v is not None],
    )


def export(*spans: Span) -> ExportTraceServiceRequest:
    return ExportTraceServiceRequest(
        resource_spans=[ResourceSpans(scope_spans=[ScopeSpans(spans=[one]) for one in spans])]
    )


def encoded(*spans: Span) -> bytes:
    body: bytes = export(*spans).SerializeToString()
    return body


def send(address: str, request: ExportTraceServiceRequest, **options: Any) -> ExportTraceServiceResponse:
    """Export it by gRPC as the generated client does."""
    with grpc.insecure_channel(address) as channel:
        method = channel.unary_unary(
            f"/{SERVICE}/Export",
            request_serializer=ExportTraceServiceRequest.SerializeToString,
            response_deserializer=ExportTraceServiceResponse.FromString,
        )
        answer: ExportTraceServiceResponse = method(request, timeout=30.0, **options)
        return answer


def started(handle: int, request_id: str, t_us: int = START_US) -> RequestStarted:
    return RequestStarted(
        t_us=t_us, handle=handle, uid=f"u{handle}", request_id=request_id, backend="b", model="m", route="/r"
    )


@dataclass
class Taking:
    """A receiver at work in a thread of its own. `said` are the events that came of it."""

    directory: Directory
    receiver: Receiver
    said: list[RequestTimes] = field(default_factory=list)
    grpc_port: int = 0
    http_port: int = 0

    @property
    def grpc(self) -> str:
        return f"127.0.0.1:{self.grpc_port}"

    @property
    def http(self) -> str:
        return f"http://127.0.0.1:{self.http_port}/v1/traces"


@contextmanager
def taking() -> Iterator[Taking]:
    """Both ways in, on free ports. What was sent has been taken once the block is left."""
    directory, said = Directory(), list[RequestTimes]()
    here = Taking(directory, Receiver(directory, said.append, lambda: 77), said)
    ready, loops = threading.Event(), list[tuple[asyncio.AbstractEventLoop, asyncio.Event]]()

    async def serve() -> None:
        over = asyncio.Event()
        loops.append((asyncio.get_running_loop(), over))
        async with receiving(here.receiver, "127.0.0.1", 0, 0) as (grpc_port, http_port):
            assert grpc_port
            assert http_port
            here.grpc_port, here.http_port = grpc_port, http_port
            ready.set()
            await over.wait()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    assert ready.wait(30.0)
    try:
        yield here
    finally:
        loop, over = loops[0]
        loop.call_soon_threadsafe(over.set)
        thread.join()
