"""The seam: how the energy of one GPU and interval is shared by the work done in it.

A rule sees what each request did in the interval and answers with integer weights, one for its prefill and
one for its decode. Everything else (books, exactness, idle, records) is the ledger's and does not change with
the rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol


class Activity(NamedTuple):
    """What one request did on one GPU's backend in one interval."""

    handle: int
    prefill: int
    """Prompt tokens computed, in thousandths; cached ones are not computed."""
    decode: int
    """Tokens generated, in thousandths."""
    in_flight_us: int
    decoding: bool
    """Whether the first token is out: what is left of its time is decode."""


class Weights(NamedTuple):
    prefill: int
    decode: int


class Rule(Protocol):
    name: str

    def weigh(self, activities: Sequence[Activity]) -> list[Weights]:
        """One pair of weights (integers >= 0) per activity; not all 0 if any was in flight."""


class TokenActivity:
    """Share by tokens: a generated token counts 5 computed prompt tokens, waiting counts nothing.

    The ratio is a round figure for an 8B model on an H100 with some 60 in a batch: by the constants fitted to
    the data of arXiv 2601.22076 a prompt token costs about 0.055 J there, a generated one about 0.3 J (and
    1.5 J at 16 in a batch). One ratio cannot be right for every load: against simulated truth this rule's
    median error is 10 to 75 %. It is the first one, and stands until a work model replaces it.
    """

    name = "interval-tokens"
    DECODE_WEIGHT = 5

    def weigh(self, activities: Sequence[Activity]) -> list[Weights]:
        weights = [Weights(a.prefill, a.decode * self.DECODE_WEIGHT) for a in activities]
        if any(w.prefill or w.decode for w in weights):
            return weights
        # No work seen: whoever was in flight shares by time (a long prefill shows nothing until its end).
        return [Weights(0, a.in_flight_us) if a.decoding else Weights(a.in_flight_us, 0) for a in activities]
