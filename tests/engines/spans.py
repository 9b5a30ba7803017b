"""vLLM's spans: a receiver of OTLP over HTTP, and just enough protobuf to read them.

vLLM sends one span `llm_request` per sequence when it is done. The messages are those of OpenTelemetry's
trace service (opentelemetry-proto 1.x); the numbers below are its field numbers.
"""

from __future__ import annotations

import gzip
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Final, Self

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
"""Wire types of protobuf."""

RESOURCE_SPANS, SCOPE_SPANS, SPANS = 1, 2, 2
NAME, START, END, ATTRIBUTES = 5, 7, 8, 9
KEY, VALUE = 1, 2
STRING_VALUE, BOOL_VALUE, INT_VALUE, DOUBLE_VALUE = 1, 2, 3, 4

Value = int | bytes
Attribute = str | int | float


@dataclass(frozen=True, slots=True)
class Span:
    """One sequence as vLLM's engine saw it. Times in microseconds; `arrival_us` since 1970.

    In the engine's own words: queued until `queue_us` after its arrival, then `prefill_us` until its first
    token, then `decode_us` until its last.
    """

    request_id: str
    arrival_us: int
    queue_us: int
    prefill_us: int
    decode_us: int
    first_token_us: int
    """From the arrival to the first token, on the side of the HTTP server."""
    prompt_tokens: int
    completion_tokens: int

    @property
    def scheduled_us(self) -> int:
        """When the engine began with it; reading the prompt, a few ms, is left out."""
        return self.arrival_us + self.queue_us


def read_spans(body: bytes) -> list[Span]:
    """The `llm_request` spans of an ExportTraceServiceRequest. Raises ValueError for what is none."""
    found = []
    for resource in _messages(body, RESOURCE_SPANS):
        for scope in _messages(resource, SCOPE_SPANS):
            for span in _messages(scope, SPANS):
                fields = list(_fields(span))
                if (NAME, b"llm_request") in fields:
                    found.append(_span(fields))
    return found


def _span(fields: list[tuple[int, Value]]) -> Span:
    attributes = dict(_attribute(value) for number, value in fields if number == ATTRIBUTES)
    start_ns = {number: value for number, value in fields if number == START}[START]
    assert isinstance(start_ns, int)

    def us(name: str) -> int:
        return round(float(attributes[f"gen_ai.latency.{name}"]) * 1e6)

    return Span(
        request_id=str(attributes["gen_ai.request.id"]),
        arrival_us=start_ns // 1000,
        queue_us=us("time_in_queue"),
        prefill_us=us("time_in_model_prefill"),
        decode_us=us("time_in_model_decode"),
        first_token_us=us("time_to_first_token"),
        prompt_tokens=int(attributes["gen_ai.usage.prompt_tokens"]),
        completion_tokens=int(attributes["gen_ai.usage.completion_tokens"]),
    )


def _attribute(pair: Value) -> tuple[str, Attribute]:
    fields = dict(_fields(pair))
    key = fields[KEY]
    assert isinstance(key, bytes)
    for number, value in _fields(fields[VALUE]):
        if number == STRING_VALUE and isinstance(value, bytes):
            return key.decode(), value.decode()
        if number == DOUBLE_VALUE and isinstance(value, int):
            return key.decode(), float(struct.unpack("<d", value.to_bytes(8, "little"))[0])
        if number in (BOOL_VALUE, INT_VALUE) and isinstance(value, int):
            return key.decode(), value
    return key.decode(), ""  # a kind of value that no attribute we read has


def _messages(body: Value, wanted: int) -> Iterator[Value]:
    return (value for number, value in _fields(body) if number == wanted)


def _fields(body: Value) -> Iterator[tuple[int, Value]]:
    """Number and value of each field of a message: bytes, or the unsigned integer that they hold."""
    if not isinstance(body, bytes):
        raise ValueError("a message was expected, not a number")
    at = 0
    while at < len(body):
        tag, at = _varint(body, at)
        number, wire = tag >> 3, tag & 7
        if wire == VARINT:
            value, at = _varint(body, at)
            yield number, value
            continue
        if wire == BYTES:
            length, at = _varint(body, at)
        elif wire in (FIXED64, FIXED32):
            length = 8 if wire == FIXED64 else 4
        else:
            raise ValueError(f"protobuf has no wire type {wire} here")
        if at + length > len(body):
            raise ValueError("the message ends within a field")
        content = body[at : at + length]
        at += length
        yield number, content if wire == BYTES else int.from_bytes(content, "little")


def _varint(body: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(body) or shift > 63:
            raise ValueError("the message ends within a number")
        byte = body[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if not byte & 0x80:
            return value, at


class SpanReceiver:
    """Takes OTLP over HTTP on a free port of 127.0.0.1; use as a context manager."""

    path: Final = "/v1/traces"

    def __init__(self) -> None:
        self._spans: list[Span] = []
        self._faults: list[str] = []
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}{self.path}"

    def spans(self) -> list[Span]:
        """Those that arrived so far. Raises ValueError where one could not be read."""
        with self._lock:
            if self._faults:
                raise ValueError("; ".join(self._faults))
            return list(self._spans)

    def _take(self, body: bytes) -> None:
        try:
            found = read_spans(body)
        except (ValueError, KeyError) as error:
            with self._lock:
                self._faults.append(f"{type(error).__name__}: {error}")
        else:
            with self._lock:
                self._spans += found

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                receiver._take(body)
                self.send_response(200)
                self.send_header("content-type", "application/x-protobuf")
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                """A test's output needs no line per export."""

        return Handler

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
