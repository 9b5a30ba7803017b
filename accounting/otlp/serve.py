"""The two ways in for traces, as OTLP 1.x defines them: gRPC, and HTTP with protobuf or JSON.

Exports are read in threads of their own, so that a large one does not hold up the event loop, and taken in
the loop's thread. What cannot be read is answered INVALID_ARGUMENT or 400: the sender must not try again.
Spans of requests that make no sense are told as rejected in a partial success; all others are fine.
Compression with gzip is understood on both ways.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager

import grpc
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceResponse,
)

from accounting.otlp import OtlpError
from accounting.otlp.receiver import Receiver
from accounting.otlp.spans import Export, Malformed, read_json, read_protobuf

log = logging.getLogger(__name__)

SERVICE = "opentelemetry.proto.collector.trace.v1.TraceService"
PATH = "/v1/traces"
PROTOBUF, JSON = "application/x-protobuf", "application/json"

MAX_BYTES = 8 * 1024 * 1024
"""Largest export taken, decompressed. A batch of OpenTelemetry's holds 512 spans, less than 1 MB."""

THREADS = 2
MAX_AT_ONCE = 64
STOP_S = 1.0
INVALID_ARGUMENT = 3
"""Its number in google.rpc.Code."""


@asynccontextmanager
async def receiving(
    receiver: Receiver, host: str, grpc_port: int | None, http_port: int | None
) -> AsyncIterator[tuple[int | None, int | None]]:
    """Both ways in, each unless its port is None; gives the ports. Raises OtlpError."""
    async with AsyncExitStack() as stack:
        yield (
            None
            if grpc_port is None
            else await stack.enter_async_context(by_grpc(receiver, host, grpc_port)),
            None
            if http_port is None
            else await stack.enter_async_context(by_http(receiver, host, http_port)),
        )


@asynccontextmanager
async def by_grpc(receiver: Receiver, host: str, port: int) -> AsyncIterator[int]:
    """Takes exports by gRPC; gives the port, which is a free one where 0 was asked for. Raises OtlpError."""
    loop = asyncio.get_running_loop()

    def export(body: bytes, context: grpc.ServicerContext) -> bytes:
        try:
            found = read_protobuf(body)
        except Malformed as error:
            loop.call_soon_threadsafe(receiver.refuse)
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        loop.call_soon_threadsafe(receiver.take, found)
        return _success(found)

    with ThreadPoolExecutor(THREADS, thread_name_prefix="otlp") as threads:
        options = [("grpc.max_receive_message_length", MAX_BYTES), ("grpc.so_reuseport", 0)]
        server = grpc.server(threads, options=options, maximum_concurrent_rpcs=MAX_AT_ONCE)
        handlers = {"Export": grpc.unary_unary_rpc_method_handler(export)}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        try:
            bound: int = server.add_insecure_port(f"{_bracketed(host)}:{port}")
        except RuntimeError as error:
            raise OtlpError(f"cannot listen on {host}:{port} for traces by gRPC") from error
        server.start()
        log.info("taking traces by gRPC on %s:%d", _bracketed(host), bound)
        try:
            yield bound
        finally:
            await asyncio.to_thread(server.stop(STOP_S).wait)


@asynccontextmanager
async def by_http(receiver: Receiver, host: str, port: int) -> AsyncIterator[int]:
    """The same by HTTP, at /v1/traces."""
    readers: dict[str, Callable[[bytes], Export]] = {PROTOBUF: read_protobuf, JSON: read_json}

    async def export(request: web.Request) -> web.Response:
        kind = request.content_type
        if kind not in readers:
            text = f"send {PROTOBUF} or {JSON}"
            return web.Response(status=415, text=text, headers={"Accept": f"{PROTOBUF}, {JSON}"})
        try:
            body = await request.read()
            found = await asyncio.to_thread(readers[kind], body)
        except (Malformed, web.RequestPayloadError, ConnectionResetError) as error:
            receiver.refuse()
            return web.Response(status=400, body=_status(kind, str(error)), content_type=kind)
        receiver.take(found)
        answer = _success(found) if kind == PROTOBUF else _success_json(found)
        return web.Response(body=answer, content_type=kind)

    app = web.Application(client_max_size=MAX_BYTES)
    app.router.add_post(PATH, export)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=STOP_S)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            raise OtlpError(f"cannot listen on {host}:{port} for traces: {error.strerror}") from error
        bound: int = runner.addresses[0][1]
        log.info("taking traces by HTTP on %s:%d", _bracketed(host), bound)
        yield bound
    finally:
        await runner.cleanup()


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _success(export: Export) -> bytes:
    answer = ExportTraceServiceResponse()
    if export.faulty:
        answer.partial_success.rejected_spans = len(export.faulty)
        answer.partial_success.error_message = export.faulty[0]
    encoded: bytes = answer.SerializeToString()
    return encoded


def _success_json(export: Export) -> bytes:
    answer: dict[str, object] = {}
    if export.faulty:
        # 64-bit integers are text in protobuf's JSON.
        rejected = str(len(export.faulty))
        answer["partialSuccess"] = {"rejectedSpans": rejected, "errorMessage": export.faulty[0]}
    return json.dumps(answer).encode()


def _status(kind: str, message: str) -> bytes:
    """A google.rpc.Status, which OTLP asks for as the body of an HTTP error."""
    if kind == JSON:
        return json.dumps({"code": INVALID_ARGUMENT, "message": message}).encode()
    # Encoded by the one message at hand whose fields 1 and 2 are an integer and a text as well.
    status = ExportTracePartialSuccess(rejected_spans=INVALID_ARGUMENT, error_message=message)
    encoded: bytes = status.SerializeToString()
    return encoded
