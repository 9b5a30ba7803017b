"""understand(): what is read from a request, and the body that goes upstream."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.ask import Ask, understand

CHAT = "/v1/chat/completions"
JSON = (b"content-type", b"application/json")
BODY = {"model": "tiny", "messages": [{"role": "user", "content": "é"}]}


def ask(body: Any, path: str = CHAT, headers: dict[str, str] | None = None, method: str = "POST") -> Ask:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    given = [(name.encode(), value.encode("latin-1")) for name, value in (headers or {}).items()]
    return understand(method, path, b"", [JSON, *given], content)


def test_a_stream_that_did_not_ask_for_usage_asks_upstream() -> None:
    body = json.dumps({**BODY, "stream": True}).encode()
    asked = ask(body)
    assert asked.forced_body == body[:-1] + b',"stream_options":{"include_usage":true}}'
    assert json.loads(asked.forced_body) == {
        **BODY,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    assert not asked.wants_usage


@pytest.mark.parametrize(
    "options", [None, {}, {"include_usage": False}, {"include_usage": None, "continuous_usage_stats": True}]
)
def test_options_without_usage_are_overridden_by_the_later_key(options: dict[str, Any] | None) -> None:
    asked = ask({**BODY, "stream": True, "stream_options": options})
    assert asked.forced_body is not None
    assert json.loads(asked.forced_body)["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize("yes", [True, 1, "true", "yes"])
def test_a_stream_that_asked_is_left_as_it_is(yes: Any) -> None:
    asked = ask({**BODY, "stream": yes, "stream_options": {"include_usage": yes}})
    assert (asked.streamed, asked.wants_usage, asked.forced_body) == (True, True, None)


@pytest.mark.parametrize("no", [False, None, 0, "false", [], {"a": 1}])
def test_what_is_no_stream_is_left_as_it_is(no: Any) -> None:
    asked = ask({**BODY, "stream": no})
    assert (asked.streamed, asked.forced_body) == (False, None)


@pytest.mark.parametrize(
    "body",
    [
        {"messages": BODY["messages"], "stream": True},
        {"model": "tiny", "stream": True},
        {**BODY, "stream": True, "stream_options": "yes"},
        {**BODY, "stream": True, "stream_options": {"include_usage": "perhaps"}},
    ],
    ids=["no model", "no messages", "options are text", "a strange flag"],
)
def test_what_the_engine_will_refuse_it_sees_word_for_word(body: dict[str, Any]) -> None:
    assert ask(body).forced_body is None


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"\xff", b'{"model":', b"[" * 100_000, b"null", b'{"stream":true}{}']
)
def test_a_body_that_cannot_be_read_is_passed_on(body: bytes) -> None:
    asked = ask(body)
    assert (asked.body, asked.model, asked.streamed, asked.forced_body) == (body, None, False, None)
    assert asked.accounted


@given(st.binary(max_size=60))
def test_no_body_makes_it_fail(body: bytes) -> None:
    assert ask(body).body == body


LOOSE = {
    "a lone surrogate": rb'{"model":"m","stream":true,"prompt":["\ud800","b"]}',
    "a number beyond a double": rb'{"model":"m","stream":true,"prompt":["a","b"],"x":[1e999]}',
    "NaN": rb'{"model":"m","stream":true,"prompt":["a","b"],"temperature":NaN}',
    "a byte order mark": b'\xef\xbb\xbf{"model":"m","stream":true,"prompt":["a","b"]}',
}


@pytest.mark.parametrize("body", LOOSE.values(), ids=LOOSE)
def test_what_only_pythons_reader_takes_is_read_all_the_same(body: bytes) -> None:
    asked = ask(body, path="/v1/completions")
    assert (asked.model, asked.streamed, asked.sequences) == ("m", True, 2)
    assert asked.forced_body is not None
    assert asked.forced_body.startswith(body[:-1])


def test_prompts_that_cannot_be_read_are_one() -> None:
    assert ask(rb'{"model":"m","prompt":[1e999]}', path="/v1/completions").sequences == 1


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from([*BODY, "stream_options", "request_id", "prompt", "n"]), json_values))
def test_a_forced_body_says_the_same_but_for_the_options(fields: dict[str, Any]) -> None:
    body = {**fields, "stream": True}
    forced = ask(body).forced_body
    if forced is not None:
        assert json.loads(forced) == {**body, "stream_options": {"include_usage": True}}


def test_white_space_around_the_body_is_no_obstacle() -> None:
    asked = ask(b" \n" + json.dumps({**BODY, "stream": True}).encode() + b" \r\n\t")
    assert asked.forced_body is not None
    assert json.loads(asked.forced_body)["stream_options"] == {"include_usage": True}


def test_other_routes_and_media_types_are_not_forced() -> None:
    assert ask({**BODY, "stream": True}, path="/v1/responses").forced_body is None
    form = understand("POST", CHAT, b"", [(b"content-type", b"text/plain")], json.dumps(BODY).encode())
    assert (form.model, form.streamed) == (None, False)


def test_the_clients_request_id_is_kept_and_not_sent_twice() -> None:
    asked = ask(BODY, headers={"x-request-id": "mine"})
    assert (asked.request_id, asked.send_request_id) == ("mine", False)


def test_the_id_in_the_body_stands_in_for_the_header() -> None:
    asked = ask({**BODY, "request_id": "in-the-body"})
    assert (asked.request_id, asked.send_request_id) == ("in-the-body", False)


@pytest.mark.parametrize("bad", ["a\r\nx-evil: 1", "a\nb", "a\0b", "é€", "x" * 5000, 7, "", None])
def test_an_id_in_the_body_that_fits_no_header_is_not_used_as_one(bad: Any) -> None:
    asked = ask({**BODY, "request_id": bad})
    assert str(UUID(asked.request_id, version=4)) == asked.request_id
    assert asked.send_request_id == (not isinstance(bad, str) or not bad)  # else the engine knows it already


def test_without_an_id_each_request_gets_one_of_its_own_that_the_engine_is_told() -> None:
    first, second = ask(BODY), ask(BODY)
    assert first.request_id != second.request_id
    assert first.send_request_id


@pytest.mark.parametrize(
    ("headers", "tenant"),
    [
        ({}, None),
        ({"x-joulegate-tenant": "acme"}, "acme"),
        ({"openai-project": "proj"}, "proj"),
        ({"openai-project": "proj", "x-joulegate-tenant": "acme"}, "acme"),
        ({"x-joulegate-tenant": ""}, None),
    ],
)
def test_who_is_charged(headers: dict[str, str], tenant: str | None) -> None:
    assert ask(BODY, headers=headers).tenant == tenant


@pytest.mark.parametrize("coding", ["utf-8", "latin-1"])
def test_a_tenants_name_may_have_accents(coding: str) -> None:
    assert (
        understand("POST", CHAT, b"", [(b"x-joulegate-tenant", "café".encode(coding))], b"").tenant == "café"
    )


@pytest.mark.parametrize("path", ["/tokenize", "/detokenize", "/v1/load_lora_adapter"])
def test_routes_that_do_no_work_are_not_accounted(path: str) -> None:
    assert not ask(BODY, path=path).accounted
    assert not ask(b"", method="GET").accounted
