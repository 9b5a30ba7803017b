"""What the load generator makes of streams, whole and broken."""

from __future__ import annotations

import json
from itertools import count
from typing import Any

from loadgen.stream import Streamed, read


def event(**fields: Any) -> bytes:
    return b"data: " + json.dumps(fields).encode()


ROLE = event(choices=[{"delta": {"role": "assistant", "content": ""}}])
TEXT = event(choices=[{"delta": {"content": "joule"}}])
USAGE = event(choices=[], usage={"completion_tokens": 2}, energy={"energy_joules": 1.5})
DONE = b"data: [DONE]"


def read_lines(*lines: bytes) -> Streamed:
    ticks = count()
    return read(lines, lambda: float(next(ticks)))


def test_a_whole_chat_gives_tokens_joules_and_one_first_time() -> None:
    seen = read_lines(ROLE, b"", TEXT, b"", TEXT, b"", USAGE, b"", DONE, b"")
    assert (seen.first_s, seen.tokens, seen.joules, seen.error) == (0.0, 2, 1.5, None)


def test_the_role_is_not_the_first_token() -> None:
    assert read_lines(ROLE, USAGE, DONE).first_s is None


def test_completions_have_text_instead_of_a_delta() -> None:
    assert read_lines(event(choices=[{"text": "j"}]), USAGE, DONE).first_s == 0.0


def test_energy_that_is_not_known_is_none() -> None:
    plain = event(choices=[], usage={"completion_tokens": 2})
    null = event(choices=[], usage={"completion_tokens": 2}, energy={"energy_joules": None})
    assert read_lines(TEXT, plain, DONE).joules is None
    assert read_lines(TEXT, null, DONE).joules is None


def test_broken_streams_are_errors() -> None:
    assert read_lines(TEXT, USAGE).error == "the stream ended without [DONE]"
    assert read_lines(TEXT, DONE).error == "the stream brought no usage"
    assert read_lines(TEXT, event(error={"message": "engine died"}), DONE).error == "engine died"
