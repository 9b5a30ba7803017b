"""Seeded prompts: what a user asks and how long the answer may get. The same seed gives the same prompts.

Lengths are lognormal, as lengths in public chat traces roughly are; the medians and widths here are chosen
round figures, not fitted to one. Words are drawn at random, so that the prefix cache has little to give.
"""

from __future__ import annotations

import math
import random
from typing import NamedTuple

WORDS = (
    *(
        "the",
        "and",
        "for",
        "are",
        "but",
        "not",
        "you",
        "all",
        "any",
        "can",
        "had",
        "her",
        "was",
        "one",
        "our",
    ),
    *(
        "out",
        "day",
        "get",
        "has",
        "him",
        "his",
        "how",
        "man",
        "new",
        "now",
        "old",
        "see",
        "two",
        "way",
        "who",
    ),
)
"""Short and common: a token each in nearly every tokenizer, the simulated one included."""


class Ask(NamedTuple):
    """`max_tokens` is the length of the answer: the engine is asked to ignore the end of sequence."""

    prompt: str
    max_tokens: int


def length(pick: random.Random, median: float, sigma: float, least: int, most: int) -> int:
    """A lognormal length held within [least, most]; `sigma` is that of its logarithm."""
    return min(max(round(pick.lognormvariate(math.log(median), sigma)), least), most)


def chat(pick: random.Random) -> Ask:
    """A question of some 60 words, an answer of some 120 tokens."""
    words = pick.choices(WORDS, k=length(pick, 60, 0.8, 5, 600))
    return Ask(" ".join(words), length(pick, 120, 0.6, 10, 500))


def code(pick: random.Random) -> Ask:
    """The file up to the cursor, some 60 lines; a completion of some 20 tokens."""
    lines = length(pick, 60, 0.6, 5, 300)
    text = [f"    {pick.choice(WORDS)} = {pick.choice(WORDS)} * {pick.randint(2, 99)}" for _ in range(lines)]
    return Ask("\n".join(("def work():", *text)), length(pick, 20, 0.5, 2, 80))
