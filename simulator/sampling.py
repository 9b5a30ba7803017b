"""What the simulated model says: seeded words of a small vocabulary, and a seeded length.

Two requests with the same prompt at temperature 0, or with the same prompt and seed, get the same answer.
Every word is one token that is encoded to itself again, so an answer that comes back in the next turn's
prompt meets its own blocks in the prefix cache.
"""

from __future__ import annotations

import hashlib
import math
import random
from array import array
from collections.abc import Sequence

from simulator.tokenizer import encode, token_text

_WORDS = """the of and to in is it for was on are as at be by he his her she him you we us our out who
how why can may had has not but all any now new way day man men two one six ten sea sun sky air ice oil
law art map end use see say get put let run big old few own bit car cat dog egg far fly fog gas hat hot
ink jam joy key lab leg lid log low mix mud net nut oak owl pan pen pie pin pot raw red rib row rug sad
sap saw set shy sit ski sip soy spy sum tap tax tea tie tin tip toe top toy try van vet war wax web wet
win wit wolf yes yet zip"""

OUTPUT_TOKENS = [tokens[0] for tokens in (encode(" " + word) for word in _WORDS.split()) if len(tokens) == 1]
"""Tokens that answers are made of: each a space and a short word."""

MEAN_LENGTH = 200
"""Mean tokens of an answer that ends by itself. Chosen."""


def seed_of(prompt: Sequence[int], seed: int | None, temperature: float, index: int) -> int:
    """Seed of the `index`-th answer to `prompt`; drawn afresh when nothing fixes it."""
    if seed is None and temperature > 0:
        return random.getrandbits(64)
    text = array("q", [*prompt, 0 if seed is None else seed, index]).tobytes()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


class Answer:
    """One answer, token by token. `length` is where it ends by itself: gamma with shape 2, mean 200."""

    __slots__ = ("_random", "length")

    def __init__(self, seed: int, min_tokens: int = 0) -> None:
        self._random = random.Random(seed)
        drawn = self._random.gammavariate(2.0, MEAN_LENGTH / 2.0)
        self.length = max(1, min_tokens, math.ceil(drawn))

    def next_token(self) -> int:
        return OUTPUT_TOKENS[int(self._random.random() * len(OUTPUT_TOKENS))]


class TextFilter:
    """Turns tokens into text and watches for stop strings.

    With stop strings, text that could be the beginning of one is held back until it is decided.
    """

    __slots__ = ("_held", "_include", "_longest", "_stops", "stopped")

    def __init__(self, stops: Sequence[str] = (), include: bool = False) -> None:
        self._stops = [stop for stop in stops if stop]
        self._longest = max(map(len, self._stops), default=0)
        self._include = include
        self._held = ""
        self.stopped: str | None = None

    def push(self, token: int, last: bool = False) -> str:
        """Text that may be said now. After a stop string `stopped` is set and nothing more comes."""
        text = token_text(token)
        if not self._stops:
            return text
        held = self._held + text
        found = min(((held.find(s), s) for s in self._stops if s in held), default=None)
        if found is not None:
            start, self.stopped = found
            self._held = ""
            return held[: start + len(self.stopped)] if self._include else held[:start]
        keep = 0 if last else min(len(held), self._longest - 1)
        self._held = held[len(held) - keep :]
        return held[: len(held) - keep]
