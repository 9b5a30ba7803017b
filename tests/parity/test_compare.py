"""The comparison sees what a client would notice, and only that."""

from __future__ import annotations

import json

import pytest

from tests.parity.cases import all_cases
from tests.parity.compare import differences, energy_objects
from tests.parity.exchange import Answer, Case

CASE = Case(name="any")
JSON_TYPE = ("content-type", "application/json")
STREAM_TYPE = ("content-type", "text/event-stream; charset=utf-8")
ENERGY = b'"energy":{"energy_joules":1.5,"shares":{"gpu":1.5}}'


def chunk(index: int, text: str, finish: str | None = None, more: str = "", created: int = 1) -> bytes:
    """A chat chunk as vLLM writes it."""
    choice = {"index": index, "delta": {"content": text}, "finish_reason": finish}
    written = json.dumps(choice, separators=(",", ":"), ensure_ascii=False)
    return f'data: {{"id":"chatcmpl-{created}","created":{created},"choices":[{written}]{more}}}\n\n'.encode()


USAGE = b'data: {"id":"chatcmpl-1","created":1,"choices":[],"usage":{"completion_tokens":3}}\n\n'
DONE = b"data: [DONE]\n\n"
PRINT = ',"system_fingerprint":"v"'
PLAIN = chunk(0, "a") + chunk(0, "b") + chunk(0, "c", "length", PRINT) + DONE


def body(raw: bytes, *headers: tuple[str, str], status: int = 200) -> Answer:
    return Answer(status, (JSON_TYPE, *headers), raw)


def stream(raw: bytes) -> Answer:
    return Answer(200, (STREAM_TYPE,), raw)


def test_ids_times_and_metrics_of_the_engine_are_no_difference() -> None:
    one = b'{"id":"chatcmpl-1","created":1,"metrics":{"queue_time_ms":0.5}}'
    two = b'{"id":"chatcmpl-f2","created":22,"metrics":{"queue_time_ms":1e-05}}'
    assert not differences(body(one, ("date", "a")), body(two, ("date", "b"), ("x-request-id", "r")), CASE)
    assert differences(body(one, ("x-request-id", "r")), body(two), CASE)


def test_an_id_that_the_request_named_must_come_back() -> None:
    named = Case(name="named", own_id=True)
    assert differences(body(b'{"id":"chatcmpl-a"}'), body(b'{"id":"chatcmpl-b"}'), named)
    assert differences(body(b"{}", ("x-request-id", "a")), body(b"{}", ("x-request-id", "b")), named)


@pytest.mark.parametrize(
    "changed",
    [
        b'{"b":1,"a":"\xc3\xa9"}',
        b'{"a": "\xc3\xa9", "b": 1}',
        b'{"a":"\\u00e9","b":1}',
        b'{"a":"\xc3\xa9","b":1.0}',
    ],
    ids=["order", "spaces", "escapes", "number"],
)
def test_a_body_written_anew_is_a_difference(changed: bytes) -> None:
    assert differences(body(b'{"a":"\xc3\xa9","b":1}'), body(changed), CASE)


def test_status_and_headers_count() -> None:
    assert differences(body(b"{}"), body(b"{}", status=502), CASE)
    assert differences(body(b"{}", ("vary", "Origin")), body(b"{}"), CASE)
    assert not differences(body(b"{}"), body(b"{}", ("x-joulegate-request", "u")), CASE)


def test_the_address_in_a_header_is_that_of_the_server_asked() -> None:
    moved = (("location", "http://h:1/v1/models"),), (("location", "http://h:2/v1/models"),)
    direct, proxied = Answer(307, moved[0], b"", "http://h:1"), Answer(307, moved[1], b"", "http://h:2")
    leaking = Answer(307, moved[0], b"", "http://h:2")
    assert not differences(direct, proxied, CASE)
    assert differences(direct, leaking, CASE)


@pytest.mark.parametrize("where", [b'{"id":"x",%s}', b'{%s,"id":"x"}', b'{"id":"x",%s,"b":1}'])
def test_the_energy_object_of_the_proxy_is_taken_away_and_read(where: bytes) -> None:
    plain = (where % b"").replace(b",}", b"}").replace(b"{,", b"{").replace(b",,", b",")
    told = where % ENERGY
    assert not differences(body(plain), body(told), CASE)
    assert differences(body(told), body(plain), CASE)  # an engine's own must stay
    assert energy_objects(told) == [{"energy_joules": 1.5, "shares": {"gpu": 1.5}}]


def test_text_that_looks_like_energy_is_text() -> None:
    text = json.dumps({"content": ',"energy":{"energy_joules":1}'}).encode()
    assert energy_objects(text) == []
    assert differences(body(text), body(b'{"content": ""}'), CASE)


def test_how_tokens_fall_into_chunks_is_no_difference() -> None:
    merged = chunk(0, "ab", created=2) + chunk(0, "c", "length", PRINT, created=2) + DONE
    assert not differences(stream(PLAIN), stream(merged), CASE)


def test_how_choices_interleave_is_no_difference() -> None:
    one = chunk(0, "a") + chunk(1, "x") + chunk(0, "b", "stop") + chunk(1, "y", "stop") + DONE
    two = chunk(1, "x") + chunk(1, "y", "stop") + chunk(0, "a") + chunk(0, "b", "stop") + DONE
    assert not differences(stream(one), stream(two), CASE)


@pytest.mark.parametrize(
    "seen",
    [
        PLAIN.replace(PRINT.encode(), b""),
        PLAIN.replace(b',"finish_reason":null', b',"finish_reason":null,"usage":null', 1),
        PLAIN.replace(DONE, USAGE + DONE),
        PLAIN.replace(DONE, b""),
        PLAIN.replace(DONE, b"data: [DONE]\n"),
        PLAIN.replace(DONE, b": joules\n\n" + DONE),
        PLAIN.replace(b'"b"', b'"x"'),
        PLAIN.replace(b'":', b'": '),
        DONE + PLAIN.replace(DONE, b""),
        PLAIN + PLAIN,
        b"".join(reversed([event + b"\n\n" for event in PLAIN.split(b"\n\n")[:-1]])),
    ],
    ids=[
        "no fingerprint",
        "usage null",
        "usage unasked",
        "no DONE",
        "no blank line",
        "comment",
        "text",
        "spaces",
        "DONE first",
        "twice",
        "backwards",
    ],
)
def test_a_stream_that_a_client_would_read_otherwise_is_a_difference(seen: bytes) -> None:
    assert differences(stream(PLAIN), stream(seen), CASE)


def test_energy_in_the_usage_chunk_is_no_difference() -> None:
    asked = PLAIN.replace(DONE, USAGE + DONE)
    told = asked.replace(b'"completion_tokens":3}', b'"completion_tokens":3},' + ENERGY)
    assert not differences(stream(asked), stream(told), CASE)
    assert len(energy_objects(told)) == 1


def test_differences_name_the_line_that_differs() -> None:
    lines = differences(stream(PLAIN), stream(PLAIN.replace(b'"b"', b'"x"')), CASE)
    assert [line for line in lines if line[0] in "+-" and line[1] == "c"] == [
        '-choice 0: content = "abc"',
        '+choice 0: content = "axc"',
    ]


def test_the_cases_have_names_of_their_own() -> None:
    cases = all_cases("m")
    assert len({case.name for case in cases}) == len(cases) > 200
