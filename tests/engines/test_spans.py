"""The few lines that read protobuf read what OpenTelemetry sends, and refuse what is none of it."""

from __future__ import annotations

import gzip
import struct

import httpx
import pytest

from tests.engines.spans import Span, SpanReceiver, read_spans

EXPECTED = Span(
    request_id="chatcmpl-a",
    arrival_us=1_795_370_925_525_286,
    queue_us=1_500_000,
    prefill_us=60_827,
    decode_us=46_102,
    first_token_us=1_570_906,
    prompt_tokens=10,
    completion_tokens=300,
)


def varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
    return out + bytes([value])


def message(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def attribute(key: str, value: str | int | float) -> bytes:
    if isinstance(value, str):
        content = message(1, value.encode())
    elif isinstance(value, int):
        content = varint(3 << 3) + varint(value)
    else:
        content = varint(4 << 3 | 1) + struct.pack("<d", value)
    return message(9, message(1, key.encode()) + message(2, content))


def export(name: str = "llm_request") -> bytes:
    latency = {
        "time_in_queue": 1.5,
        "time_in_model_prefill": 0.060827,
        "time_in_model_decode": 0.046102,
        "time_to_first_token": 1.570906,
    }
    span = message(1, bytes(16)) + message(2, bytes(8)) + message(5, name.encode())
    span += varint(6 << 3) + varint(2)  # kind
    span += varint(7 << 3 | 1) + struct.pack("<Q", 1_795_370_925_525_286_656)
    span += b"".join(attribute(f"gen_ai.latency.{key}", value) for key, value in latency.items())
    span += attribute("gen_ai.usage.prompt_tokens", 10) + attribute("gen_ai.usage.completion_tokens", 300)
    span += attribute("gen_ai.request.id", "chatcmpl-a")
    span += varint(16 << 3 | 5) + struct.pack("<I", 768)  # flags
    return message(1, message(1, b"") + message(2, message(1, b"") + message(2, span)))


def test_a_span_is_read() -> None:
    assert read_spans(export()) == [EXPECTED]
    assert read_spans(export() + export()) == [EXPECTED, EXPECTED]
    assert EXPECTED.scheduled_us == EXPECTED.arrival_us + 1_500_000


def test_other_spans_are_left_out() -> None:
    assert read_spans(export("tokenize")) == []
    assert read_spans(b"") == []


def test_a_body_cut_anywhere_is_refused() -> None:
    body = export()
    for length in range(1, len(body)):
        with pytest.raises(ValueError, match="ends within"):
            read_spans(body[:length])


def test_the_receiver_takes_plain_and_compressed_bodies() -> None:
    with SpanReceiver() as receiver:
        kind = {"content-type": "application/x-protobuf"}
        assert httpx.post(receiver.url, content=export(), headers=kind).status_code == 200
        packed = {**kind, "content-encoding": "gzip"}
        assert httpx.post(receiver.url, content=gzip.compress(export()), headers=packed).status_code == 200
        assert receiver.spans() == [EXPECTED, EXPECTED]


def test_a_body_that_cannot_be_read_is_told() -> None:
    with SpanReceiver() as receiver:
        httpx.post(receiver.url, content=export()[:-1])
        with pytest.raises(ValueError, match="ends within"):
            receiver.spans()
