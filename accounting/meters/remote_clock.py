"""How far another machine's clock is ahead of ours, and how sure that is.

Each exchange bounds it: what the other wrote down on receiving was not before we sent, and what it wrote
down on sending was not after we received (NTP's four timestamps, RFC 5905 section 8, as bounds rather than a
mean). Old bounds are widened by what clocks may drift apart, and all that hold are intersected. So the
quickest round trips decide, drift is followed, and a step of either clock shows: the bounds no longer meet.
"""

from __future__ import annotations

from collections import deque

DRIFT_PPM = 100
"""By this much two clocks may run apart: twice what a bad crystal does; one of NTP's corrections is less."""

KEPT = 32


class RemoteClock:
    """All times in microseconds."""

    def __init__(self) -> None:
        self._bounds: deque[tuple[int, int, int]] = deque(maxlen=KEPT)
        """When measured on our clock, least and greatest offset; oldest first."""
        self.steps = 0
        """How often old bounds contradicted a new one: a clock was set."""

    def add(self, sent_us: int, received_us: int, their_receiving_us: int, their_sending_us: int) -> None:
        """We sent at sent_us and had the answer at received_us, on our clock.

        On theirs: the latest time at which they can have received, and the earliest at which they can have
        answered. One stamp of coarse resolution gives its end and its begin.
        """
        # The clocks drift apart during the exchange, too, and both count whole microseconds.
        drift = (received_us - sent_us) * DRIFT_PPM // 1_000_000 + 1
        least, greatest = their_sending_us - received_us - drift, their_receiving_us - sent_us + drift
        if least > greatest:
            return  # a clock was set in between, or they tell nonsense
        self._bounds.append((received_us, least, greatest))
        if not self._meet(received_us):
            self.steps += 1
        while not self._meet(received_us):
            self._bounds.popleft()

    def _within(self, now_us: int) -> tuple[int, int]:
        drift = [(now_us - at) * DRIFT_PPM // 1_000_000 for at, *_ in self._bounds]
        least = max(low - d for (_, low, _), d in zip(self._bounds, drift, strict=True))
        greatest = min(high + d for (*_, high), d in zip(self._bounds, drift, strict=True))
        return least, greatest

    def _meet(self, now_us: int) -> bool:
        least, greatest = self._within(now_us)
        return least <= greatest

    def offset_us(self, now_us: int) -> tuple[int, int] | None:
        """How far their clock is ahead of ours, and by how much that may be off; None before any exchange."""
        if not self._bounds:
            return None
        least, greatest = self._within(now_us)
        return (least + greatest) // 2, max(greatest - least + 1, 0) // 2
