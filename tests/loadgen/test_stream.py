"""What the load generator makes of streams, whole and broken."""

from __future__ import annotations

import json
from itertools import count
from typing import Any

import pytest

from loadgen.stream import Streamed, read


def event(**fields: Any) -> bytes:
    return b"data: " + json.dumps(fields).encode() + b"\n"


ROLE = event(choices=[{"delta": {"role": "assistant", "content": ""}}])
TEXT = event(choices=[{"delta": {"content": "joule"}}])
THOUGHT = event(choices=[{"delta": {"reasoning_content": "joule?"}}])
COUNTS = {"prompt_tokens": 7, "completion_tokens": 2}
USAGE = event(choices=[], usage=COUNTS, energy={"energy_joules": 1.5})
DONE = b"data: [DONE]\n"


def read_lines(*lines: bytes) -> Streamed:
    ticks = count()
    return read(lines, lambda: float(next(ticks)))


def test_a_whole_chat_gives_tokens_joules_and_the_time_of_each_piece() -> None:
    seen = read_lines(ROLE, b"\n", TEXT, b"\n", TEXT, b"\n", USAGE, b"\n", DONE, b"\n")
    assert (seen.chunk_s, seen.tokens, seen.prompt_tokens, seen.joules) == ([0.0, 1.0], 2, 7, 1.5)
    assert (seen.first_s, seen.last_s, seen.error) == (0.0, 1.0, None)


def test_the_role_is_not_the_first_token() -> None:
    assert read_lines(ROLE, USAGE, DONE).first_s is None


def test_what_a_model_thinks_are_tokens_too() -> None:
    assert read_lines(ROLE, THOUGHT, TEXT, USAGE, DONE).chunk_s == [0.0, 1.0]


def test_usage_on_every_piece_counts_pieces_and_takes_the_last() -> None:
    pieces = [
        event(choices=[{"delta": {"content": "a"}}], usage={**COUNTS, "completion_tokens": n}) for n in (1, 2)
    ]
    seen = read_lines(*pieces, DONE)
    assert (len(seen.chunk_s), seen.tokens) == (2, 2)


def test_completions_have_text_instead_of_a_delta() -> None:
    assert read_lines(event(choices=[{"text": "j"}]), USAGE, DONE).first_s == 0.0


def test_energy_that_is_not_known_is_none() -> None:
    plain = event(choices=[], usage=COUNTS)
    null = event(choices=[], usage=COUNTS, energy={"energy_joules": None})
    assert read_lines(TEXT, plain, DONE).joules is None
    assert read_lines(TEXT, null, DONE).joules is None


def test_broken_streams_are_errors() -> None:
    assert read_lines(TEXT, USAGE).error == "the stream ended without [DONE]"
    assert read_lines(TEXT, DONE).error == "the stream brought no usage"
    assert read_lines(TEXT, event(error={"message": "engine died"}), DONE).error == "engine died"


def test_what_came_before_a_break_is_kept() -> None:
    def lines() -> Any:
        yield TEXT
        raise OSError("gone")

    seen = Streamed()
    with pytest.raises(OSError, match="gone"):
        read(lines(), lambda: 5.0, seen)
    assert seen.chunk_s == [5.0]
