"""Prompts are the same for the same seed, and their lengths stay in bounds."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from loadgen import prompts


@pytest.mark.parametrize("ask", [prompts.chat, prompts.code])
def test_a_seed_gives_the_same_prompts_again(ask: Callable[[random.Random], prompts.Ask]) -> None:
    first, again, other = random.Random("a"), random.Random("a"), random.Random("b")
    made = [ask(first) for _ in range(20)]
    assert made == [ask(again) for _ in range(20)]
    assert made != [ask(other) for _ in range(20)]


def test_lengths_lie_around_their_median_and_within_bounds() -> None:
    pick = random.Random(7)
    lengths = sorted(prompts.length(pick, 100, 0.8, 10, 400) for _ in range(2001))
    assert lengths[0] >= 10
    assert lengths[-1] == 400
    assert 90 < lengths[1000] < 110
