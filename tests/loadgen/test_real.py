"""Rows of real data sets become requests: what is asked is the user's own text."""

from __future__ import annotations

import random
import sys
from itertools import islice
from typing import Any

import pytest

from loadgen import real
from loadgen.asks import Maker
from loadgen.real import DataError, Real

PNG = b"\x89PNG..."


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"conversation_a": [{"role": "user", "content": "why?"}, {"role": "assistant"}]}, Real("why?")),
        ({"conversations": [{"from": "system", "value": "s"}, {"from": "human", "value": "hm"}]}, Real("hm")),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "t"}]}]}, Real("t")),
        ({"conversation": None, "prompt": "p", "image": {"bytes": PNG}}, Real("p", PNG)),
        ({"caption": "c", "video": [{"bytes": b"v"}]}, Real("c", None, b"v")),
        (
            {
                "Question": "2+2?",
                "Correct Answer": "4",
                "Incorrect Answer 1": "5\n",
                "Incorrect Answer 2": "3",
            },
            Real("2+2?\n(A) 3\n(B) 4\n(C) 5"),
        ),
    ],
)
def test_text_and_media_are_found(row: dict[str, Any], expected: Real) -> None:
    assert real.read(row) == expected


def test_a_column_can_be_named_and_must_be_there() -> None:
    assert real.read({"prompt": "no", "mine": "yes"}, "mine") == Real("yes")
    with pytest.raises(DataError, match="'theirs'"):
        real.read({"prompt": "no"}, "theirs")
    with pytest.raises(DataError, match="--column"):
        real.read({"something": "else"})
    with pytest.raises(DataError, match="no text"):
        real.read({"messages": [{"role": "assistant", "content": "hi"}]})


def test_a_real_prompt_lets_the_model_end_its_answer() -> None:
    maker = Maker("chat", "m", random.Random(1))
    ask = real.ask(maker, Real("why?"))
    assert "ignore_eos" not in ask.body
    assert ask.wanted is None
    assert ask.body["messages"] == [{"role": "user", "content": "why?"}]


def test_a_task_that_shows_something_needs_it() -> None:
    picture = real.ask(Maker("image-chat", "m", random.Random(1)), Real("what?", PNG))
    assert picture.body["messages"][0]["content"][0]["image_url"]["url"].startswith("data:image/png;base64,")
    for task in ("image-chat", "video-chat"):
        with pytest.raises(DataError, match="no column"):
            real.ask(Maker(task, "m", random.Random(1)), Real("what?"))
    assert real.ask(Maker("text-to-image", "m", random.Random(1)), Real("a cat")).body["prompt"] == "a cat"


def test_users_take_turns_and_nobody_sends_what_another_has() -> None:
    rows = [{"prompt": str(number)} for number in range(10)]
    maker = Maker("chat", "m", random.Random(1))
    sent = [
        [ask.body["messages"][0]["content"] for ask in islice(real.asked(maker, rows, None, (k, 2)), 5)]
        for k in (0, 1)
    ]
    assert sorted(sent[0] + sent[1]) == sorted(map(str, range(10)))
    with pytest.raises(DataError, match="empty"):
        next(real.asked(maker, []))


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"joulegate\[datasets\]"):
        real.load("nothing", "train")
