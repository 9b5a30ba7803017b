"""What each of the seven tasks sends: the right API, the paper's lengths, the same for the same seed."""

from __future__ import annotations

import json
import random
from statistics import mean
from typing import Any

import pytest

from loadgen import lengths
from loadgen.asks import CHAT, COMPLETIONS, IMAGES, NAMES, VIDEOS, Ask, Maker, Sizes

PATHS = {
    "chat": CHAT,
    "reasoning": CHAT,
    "code": COMPLETIONS,
    "image-chat": CHAT,
    "video-chat": CHAT,
    "text-to-image": IMAGES,
    "text-to-video": VIDEOS,
}


def asks(task: str, count: int = 3, seed: int = 1, **sizes: Any) -> list[Ask]:
    maker = Maker(task, "m", random.Random(seed), sizes=Sizes(**sizes))
    return [maker.next() for _ in range(count)]


def words(ask: Ask) -> int:
    if "prompt" in ask.body:
        return len(ask.body["prompt"].split())
    content = ask.body["messages"][0]["content"]
    text = content if isinstance(content, str) else content[1]["text"]
    return len(text.split())


def test_there_are_seven_tasks() -> None:
    assert set(PATHS) == set(NAMES)


@pytest.mark.parametrize("task", NAMES)
def test_a_task_uses_its_api_and_a_seed_gives_the_same_again(task: str) -> None:
    made = asks(task)
    assert {ask.path for ask in made} == {PATHS[task]}
    assert made == asks(task)
    assert made != asks(task, seed=2)
    assert len({json.dumps(ask.body) for ask in made}) == 3


@pytest.mark.parametrize("task", ["chat", "reasoning", "code"])
def test_lengths_are_the_papers(task: str) -> None:
    made = asks(task, 2000)
    parts = lengths.answer_tokens(task)
    assert mean(ask.wanted or 0 for ask in made) == pytest.approx(mean(parts), rel=0.1)
    assert mean(map(words, made)) == pytest.approx(lengths.TASKS[task].text_tokens, rel=0.1)
    assert all(ask.body["max_tokens"] == ask.wanted for ask in made)


def test_answers_are_bounded_and_everything_can_be_shorter() -> None:
    assert max(ask.wanted or 0 for ask in asks("reasoning", 200, longest=50)) == 50
    short = asks("chat", 500, shorter=0.1)
    assert mean(map(words, short)) == pytest.approx(23, rel=0.1)


@pytest.mark.parametrize(("task", "part"), [("image-chat", "image_url"), ("video-chat", "video_url")])
def test_what_is_seen_comes_first_and_is_never_the_same(task: str, part: str) -> None:
    shown = [ask.body["messages"][0]["content"][0] for ask in asks(task)]
    assert {one["type"] for one in shown} == {part}
    assert len({one[part]["url"] for one in shown}) == 3


def test_diffusion_asks_have_stock_fields_and_steps_only_where_told() -> None:
    (image,) = asks("text-to-image", 1, output=(512, 256))
    assert set(image.body) == {"model", "prompt", "n", "size"}
    assert image.body["size"] == "512x256"
    (video,) = asks("text-to-video", 1, steps=4)
    assert set(video.body) == {"model", "prompt", "size", "seconds", "num_inference_steps"}
