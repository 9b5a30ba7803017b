"""How many tokens a prompt has, guessed from the size of its request: bytes = envelope + tokens x size.

The line is fitted to the requests of late, as their engines told the tokens; it bridges the time between the
first token of a stream and its usage, which comes last.
"""

from __future__ import annotations

import msgspec

MEMORY = 0.98
"""What of the weight of earlier requests is left with each new one: about 50 count."""

ENVELOPE_BYTES = 150.0
TOKEN_BYTES = 4.5
"""Before anything is known: JSON around a chat message; English text."""

LEAST_BYTES, MOST_BYTES = 0.5, 100.0
"""A token has at least and at most so many bytes."""


class PromptSizes(msgspec.Struct):
    """Decaying sums over requests: weight, tokens, bytes, and their products."""

    n: float = 0.0
    t: float = 0.0
    b: float = 0.0
    tt: float = 0.0
    tb: float = 0.0

    def tokens(self, body_bytes: int) -> float:
        """The guess for a body of this size, at least 1."""
        envelope, size = self._line()
        return max((body_bytes - envelope) / size, 1.0)

    def learn(self, body_bytes: int, tokens: int) -> None:
        self.n = MEMORY * self.n + 1.0
        self.t = MEMORY * self.t + tokens
        self.b = MEMORY * self.b + body_bytes
        self.tt = MEMORY * self.tt + float(tokens) * tokens
        self.tb = MEMORY * self.tb + float(tokens) * body_bytes

    def _line(self) -> tuple[float, float]:
        if self.n <= 0 or self.t <= 0:
            return ENVELOPE_BYTES, TOKEN_BYTES
        spread = self.n * self.tt - self.t * self.t
        size = (self.n * self.tb - self.t * self.b) / spread if spread > 1e-6 * self.n * self.tt else 0.0
        envelope = (self.b - size * self.t) / self.n
        if LEAST_BYTES <= size <= MOST_BYTES and envelope >= 0:
            return envelope, size
        # All of one size, or nothing like a line: take the mean.
        return 0.0, min(max(self.b / self.t, LEAST_BYTES), MOST_BYTES)
