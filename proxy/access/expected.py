"""What a request is expected to cost, before it is sent: learnt from those before it.

By route and model, from settled requests: energy of prefill per byte of the request, energy of decode per
token of the answer, tokens of an answer; where an engine counts no tokens energy per request, of images and
videos per pixel, step and frame.
Of each the mean and the mean deviation are kept, and the mean and four deviations are expected: the rule by
which TCP expects its round trips (RFC 6298, section 2). That is rather too much than too little, which is
what a reservation is for. A request that names its `max_tokens` is expected to use them all.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from accounting.events import Media, RequestStarted
from accounting.records import RequestRecord
from proxy.hints import BYTES_PER_TOKEN

DEAREST_TOKEN_UJ = 275_000_000
"""Energy of a token that shares its batch with no other, on the dearest model measured in arXiv 2601.22076:
34.3 J where eight share one (Qwen3-Coder-480B in FP8 on eight B200), and all of it for one."""

DEAREST_IMAGE_UJ = 30_000_000_000
"""Likewise of an image: 26.1 kJ (FLUX.1-dev on eight B200), and some more."""

DEAREST_VIDEO_UJ = 1_500_000_000_000
"""Likewise of a video: 1.49 MJ (HunyuanVideo on eight B200)."""

MOST = 1_000
"""Pairs of route and model that are remembered."""


class Spread(msgspec.Struct, array_like=True):
    """Mean and mean deviation of late."""

    mean: float = 0.0
    deviation: float = 0.0
    seen: bool = False

    def add(self, value: float) -> None:
        if not self.seen:
            self.mean, self.deviation, self.seen = value, value / 2, True
            return
        off = value - self.mean
        self.deviation += (abs(off) - self.deviation) / 4
        self.mean += off / 8

    @property
    def high(self) -> float:
        return self.mean + 4 * self.deviation


class Learnt(msgspec.Struct):
    """Of one route and model. Energies in microjoules."""

    per_byte: Spread = msgspec.field(default_factory=Spread)
    per_token: Spread = msgspec.field(default_factory=Spread)
    answer_tokens: Spread = msgspec.field(default_factory=Spread)
    """Of one sequence."""
    whole: Spread = msgspec.field(default_factory=Spread)
    """Of a request without tokens, over its `units`."""
    unmeasured: bool = False
    """The last one gave no energy: nothing can be known."""


@dataclass(slots=True)
class Size:
    """What is known of a request before it is sent."""

    route: str
    model: str
    body_bytes: int
    max_tokens: int | None
    """Of one sequence of the answer; None: it does not say."""
    sequences: int
    media: Media | None = None

    @classmethod
    def of(cls, started: RequestStarted) -> Size:
        """Of a request that was started before a restart: `max_tokens` is not known any more."""
        model, size = started.model or "", started.body_bytes
        return cls(started.route, model, size, None, started.sequences, started.media)

    @property
    def like(self) -> str:
        """What its energy is learnt by: requests for media by what is said of them, too."""
        media = self.media
        if media is None:
            return f"{self.route} {self.model}"
        said = ("size", media.size), ("steps", media.steps), ("frames", media.frames)
        return " ".join([self.route, self.model, *(name for name, value in said if value is not None)])

    @property
    def units(self) -> float:
        """Pixels times steps times frames of all its images or videos, as far as they are said: the energy of
        diffusion goes with these. 1 for all else."""
        media = self.media
        if media is None:
            return 1.0
        pixels = (media.width or 1) * (media.height or 1)
        return float(media.count * pixels * (media.steps or 1) * (media.frames or 1))

    @property
    def prompt_tokens(self) -> int:
        """By a common rule of thumb for English text."""
        return self.body_bytes // BYTES_PER_TOKEN


def dearest_uj(size: Size, tokens: int) -> int:
    """More than a request of this size costs on any model measured so far; `tokens` of prompt and answer."""
    media = size.media
    if media is None:
        return tokens * DEAREST_TOKEN_UJ
    return media.count * (DEAREST_IMAGE_UJ if media.kind == "image" else DEAREST_VIDEO_UJ)


class Expected:
    def __init__(self, learnt: dict[str, Learnt] | None = None) -> None:
        self.learnt = learnt if learnt is not None else {}

    def uj(self, size: Size) -> int | None:
        """None: nothing is known of its like."""
        known = self.learnt.get(size.like)
        if known is None:
            return None
        if known.per_token.seen:
            return round(
                known.per_byte.high * size.body_bytes + known.per_token.high * self._tokens(size, known)
            )
        if known.whole.seen:
            return round(known.whole.high * size.units)
        return 0 if known.unmeasured else None

    def answer_tokens(self, size: Size, otherwise: int) -> int:
        """Tokens of all its answers."""
        known = self.learnt.get(size.like)
        if size.max_tokens is None and (known is None or not known.answer_tokens.seen):
            return otherwise * size.sequences
        return round(self._tokens(size, known))

    def _tokens(self, size: Size, known: Learnt | None) -> float:
        each = size.max_tokens if size.max_tokens is not None else known.answer_tokens.high if known else 0
        return each * size.sequences

    def learn(self, size: Size, record: RequestRecord) -> None:
        """A request of this size was settled so."""
        if record.status != "ok":
            return
        name = size.like
        known = self.learnt.pop(name, None) or Learnt()  # to the end: those that are used stay
        self.learnt[name] = known
        while len(self.learnt) > MOST:
            del self.learnt[next(iter(self.learnt))]
        known.unmeasured = record.energy_uj is None
        tokens = record.completion_tokens
        if tokens is not None:
            known.answer_tokens.add(tokens / size.sequences)
        if record.prefill_uj is None or record.decode_uj is None or record.energy_uj is None:
            return
        if tokens is None:
            known.whole.add(record.energy_uj / size.units)
            return
        known.per_byte.add(record.prefill_uj / max(size.body_bytes, 1))
        # A sequence's first token comes from prefill.
        known.per_token.add(record.decode_uj / max(tokens - size.sequences, 1))
