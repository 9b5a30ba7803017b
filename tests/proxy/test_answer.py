"""What is read from an engine's JSON, and how the energy object gets into its bytes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accounting.events import EngineTimes, Usage
from proxy import answer
from proxy.energy import energy_object, splice
from proxy.lenient import MOST_BYTES
from tests.accounting.store.examples import record
from tests.proxy.test_ask import json_values


def parsed(document: Any) -> answer.Answer:
    found = answer.parse(json.dumps(document).encode())
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("usage", "read"),
    [
        (
            {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12},
            Usage(prompt_tokens=9, completion_tokens=3),
        ),
        (
            {"prompt_tokens": 9, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 8}},
            Usage(prompt_tokens=9, completion_tokens=3, cached_tokens=8),
        ),
        ({"prompt_tokens": 9, "total_tokens": 9}, Usage(prompt_tokens=9, completion_tokens=0)),
        ({"prompt_tokens": 9, "total_tokens": 12}, Usage(prompt_tokens=9)),
        (
            {"input_tokens": 9, "output_tokens": 0, "input_tokens_details": {"cached_tokens": 0}},
            Usage(prompt_tokens=9, completion_tokens=0, cached_tokens=0),
        ),
        ({}, Usage()),
        (None, None),
    ],
    ids=["chat", "cached", "embedding", "half told", "responses", "empty", "null"],
)
def test_usage_is_read_under_all_its_names(usage: Any, read: Usage | None) -> None:
    assert answer.usage_of(parsed({"usage": usage})) == read


def test_usage_and_times_inside_a_response_are_found() -> None:
    inner = {"usage": {"input_tokens": 1, "output_tokens": 2}, "metrics": {"queue_time_ms": 0.5}}
    found = parsed({"response": inner})
    assert answer.usage_of(found) == Usage(prompt_tokens=1, completion_tokens=2)
    assert answer.times_of(found) == EngineTimes(queue_ms=0.5)


def test_times_that_an_engine_leaves_out_stay_unknown() -> None:
    assert answer.times_of(parsed({"metrics": {"time_to_first_token_ms": None}})) == EngineTimes()
    assert answer.times_of(parsed({"metrics": None})) is None


@pytest.mark.parametrize(
    "document", [b"", b"{", b"[1]", b"\xff", b"[" * 100_000, b'{"choices":7}', b'"text"']
)
def test_what_is_no_answer_is_none(document: bytes) -> None:
    assert answer.parse(document) is None


@pytest.mark.parametrize(
    "document",
    [
        rb'{"choices":[{"text":"\ud800"}],"usage":{"prompt_tokens":3}}',
        b'{"choices":[{"logprob":-Infinity}],"usage":{"prompt_tokens":3}}',
        b'\xef\xbb\xbf{"usage":{"prompt_tokens":3}}',
    ],
    ids=["a lone surrogate", "no number", "a byte order mark"],
)
def test_an_answer_that_only_pythons_reader_takes_has_its_usage(document: bytes) -> None:
    assert answer.is_json(document)
    found = answer.parse(document)
    assert found is not None
    assert answer.usage_of(found) == Usage(prompt_tokens=3)


def test_what_cannot_be_judged_here_counts_as_json_and_half_of_it_does_not() -> None:
    assert answer.is_json(b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}")
    assert answer.is_json(b'{"x":[' + b"NaN," * (MOST_BYTES // 4) + b"1]}")
    assert not answer.is_json(b'{"x":[1,')
    assert not answer.is_json(b"<html>")


@pytest.mark.parametrize(
    ("raw", "read"),
    [
        (b'{"message":"no","code":404}', ("no", 404)),
        (b'{"message":"no","code":"gone"}', ("no", None)),
        (b'{"message":null}', ("", None)),
        (b'"just text"', ('"just text"', None)),
    ],
)
def test_errors_of_several_shapes_are_read(raw: bytes, read: tuple[str, int | None]) -> None:
    assert answer.error_of(raw) == read


@given(st.dictionaries(st.text(max_size=4), json_values, max_size=4), json_values)
def test_splice_adds_a_member_and_keeps_every_other_byte(document: dict[str, Any], value: Any) -> None:
    for text in (json.dumps(document), json.dumps(document, indent=1) + "\n"):
        before = text.encode()
        after = splice(before, "energy", json.dumps(value).encode())
        assert json.loads(after) == {**document, "energy": value}
        assert after.startswith(before[: before.rindex(b"}")])
        assert after.endswith(before[before.rindex(b"}") :])


def test_splice_leaves_alone_what_is_no_object() -> None:
    assert splice(b"[1]", "energy", b"1") == b"[1]"


def test_the_energy_object_speaks_joules_kwh_and_watts() -> None:
    one = record(
        1, energy_uj=7_200_000, uncertainty_uj=500_000, started_us=10_000_000, finished_us=12_000_000
    )
    shown = energy_object(one)
    assert (shown["energy_joules"], shown["avg_power_watts"], shown["duration_seconds"]) == (7.2, 3.6, 2.0)
    assert shown["energy_kwh"] == pytest.approx(2e-6)
    assert shown["uncertainty_joules"] == 0.5
    assert shown["request_id"] == one.request_id


def test_energy_that_was_not_measured_is_null_and_never_0() -> None:
    shown = energy_object(record(1, energy_uj=None, prefill_uj=None, decode_uj=None, uncertainty_uj=None))
    nulls = [name for name, value in shown.items() if value is None]
    gpus = ["energy_joules", "energy_kwh", "avg_power_watts", "uncertainty_joules"]
    assert nulls == [*gpus, "host_joules", "host_method"]


def test_the_energy_object_has_the_host_beside_the_gpus_and_the_building_with_its_factor() -> None:
    one = record(1, energy_uj=3_000_000, host_uj=1_000_000, host_method="rapl", host_unmeasured_us=0)
    shown = energy_object(one)
    assert (shown["energy_joules"], shown["host_joules"], shown["host_method"]) == (3.0, 1.0, "rapl")
    assert "facility_joules" not in shown
    shown = energy_object(one, pue=1.5)
    assert (shown["facility_joules"], shown["pue"]) == (6.0, 1.5)


@pytest.mark.parametrize(
    "unknown",
    [
        {"energy_uj": None},
        {"host_uj": None},
        {"host_unmeasured_us": 1},
        {"host_unmeasured_us": None},
        {"unmeasured_us": 1},
    ],
)
def test_a_building_of_which_a_part_is_not_known_has_no_sum(unknown: dict[str, object]) -> None:
    known = {"energy_uj": 3, "host_uj": 1, "host_method": "rapl", "host_unmeasured_us": 0}
    assert energy_object(record(1, **known), pue=1.5)["facility_joules"] is not None
    assert energy_object(record(1, **{**known, **unknown}), pue=1.5)["facility_joules"] is None
