"""What is taken from a request's bytes for the choice of its backend."""

from __future__ import annotations

import json
from typing import Any, Literal

import pytest

from proxy.hints import SEARCHED_BYTES, Hints, Reader
from proxy.settings_routing import Routing

KINDS: list[Literal["session", "prefix"]] = ["session", "prefix"]


def hints(body: dict[str, Any], *headers: tuple[bytes, bytes], **routing: Any) -> Hints:
    settings = Routing(**{"affinity": KINDS, **routing})
    return Reader(settings).read(headers, json.dumps(body).encode())


def test_a_header_names_the_session_before_a_field_of_the_body_does() -> None:
    body = {"messages": [], "prompt_cache_key": "from the body"}
    assert hints(body).session == "from the body"
    assert hints(body, (b"x-session-id", b"from the header")).session == "from the header"


def test_fields_that_name_a_session_can_be_chosen() -> None:
    body = {"messages": [{"role": "user", "content": "hi"}], "user": "u1"}
    assert hints(body).session is None
    assert hints(body, session_fields=["user"]).session == "u1"


def test_a_role_or_a_quoted_key_is_no_session() -> None:
    body = {"messages": [{"role": "user", "content": 'say "user": "x" and {"user":"y"}'}]}
    assert hints(body, session_fields=["user"]).session is None


def test_two_chats_with_the_same_beginning_have_the_same_prefix() -> None:
    system = {"role": "system", "content": "You are a meter of joules. " * 60}
    one = hints({"model": "m", "messages": [system, {"role": "user", "content": "one"}]})
    two = hints({"temperature": 0, "model": "m", "messages": [system, {"role": "user", "content": "two"}]})
    assert one.prefix == two.prefix
    assert one.prefix is not None
    assert len(one.prefix) == 1024
    other = hints({"messages": [{"role": "user", "content": "one"}]})
    assert other.prefix not in (None, one.prefix)


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens", "max_output_tokens"])
def test_work_is_the_prompt_and_the_answer_that_may_come(field: str) -> None:
    body = {"prompt": "x" * 4000, field: 70}
    assert hints(body).work == len(json.dumps(body)) // 4 + 70


def test_an_answer_without_a_limit_counts_as_the_settings_say() -> None:
    assert hints({"prompt": ""}, output_tokens=500).work == len('{"prompt": ""}') // 4 + 500


def test_a_large_body_is_searched_at_both_ends_and_weighed_whole() -> None:
    image = "A" * (4 * SEARCHED_BYTES)
    body = json.dumps({"messages": [image], "prompt_cache_key": "end", "max_tokens": 8}).encode()
    found = Reader(Routing(affinity=KINDS)).read((), body)
    assert (found.session, found.work) == ("end", len(body) // 4 + 8)


def test_only_the_beginning_of_a_body_needs_to_be_here() -> None:
    body = json.dumps({"max_tokens": 8, "messages": ["x" * 10_000]}).encode()
    found = Reader(Routing(affinity=KINDS)).read((), bytearray(body[:2000]), length=len(body))
    assert found.work == len(body) // 4 + 8
    assert isinstance(found.prefix, bytes)


def test_bytes_that_are_no_json_give_no_hint_and_no_error() -> None:
    found = Reader(Routing(affinity=KINDS)).read([(b"x-session-id", b"")], b"\xff\x00{{{")
    assert (found.session, found.prefix) == (None, None)
