"""Several meters as one: each GPU is read by the first of them, in order of preference, that can.

A GPU may be in reach of two meters, say NVML here and a zeusd on its node. Two counters must never be mixed,
so one meter at a time speaks for a GPU: the first in the list that has said it is up. When that one goes down
the next takes over with a `MeterUp` of its own, and hands back when the better one returns.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from accounting.events import MeterDown, MeterUp
from accounting.meters.contract import Meter, MeterEvent


class Several:
    """A `Meter` made of meters, best first. Of none: nothing is measured."""

    def __init__(self, meters: Sequence[Meter] = ()) -> None:
        self._meters = list(meters)
        self._ups: dict[str, dict[int, MeterUp]] = {}
        """By GPU: the meters, by place in the list, that can read it, and what they said of it."""
        self._speaks: dict[str, int] = {}
        """By GPU: the meter whose reads are passed on."""

    def start(self) -> None:
        """Start all. Raises MeterError from the first that cannot start; those before it are closed again."""
        started: list[Meter] = []
        try:
            for meter in self._meters:
                meter.start()
                started.append(meter)
        except BaseException:
            for meter in started:
                meter.close()
            raise

    def set_busy(self, busy: bool) -> None:
        for meter in self._meters:
            meter.set_busy(busy)

    def drain(self) -> list[MeterEvent]:
        events: list[MeterEvent] = []
        for place, meter in enumerate(self._meters):
            for event in meter.drain():
                events += self._hear(place, event)
        return events

    def close(self) -> None:
        for meter in self._meters:
            meter.close()

    def _hear(self, place: int, event: MeterEvent) -> list[MeterEvent]:
        if isinstance(event, MeterUp):
            return self._hear_up(place, event)
        if isinstance(event, MeterDown):
            return self._hear_down(place, event)
        return [event] if self._speaks.get(event.gpu) == place else []

    def _hear_up(self, place: int, event: MeterUp) -> list[MeterEvent]:
        self._ups.setdefault(event.gpu, {})[place] = event
        if place > self._speaks.get(event.gpu, place):
            return []
        self._speaks[event.gpu] = place
        return [event]

    def _hear_down(self, place: int, event: MeterDown) -> list[MeterEvent]:
        ups = self._ups.get(event.gpu, {})
        ups.pop(place, None)
        if not ups:
            self._speaks.pop(event.gpu, None)
            return [event]
        if self._speaks[event.gpu] != place:
            return []  # it is read all the same
        heir = min(ups)
        self._speaks[event.gpu] = heir
        return [event, msgspec.structs.replace(ups[heir], t_us=max(event.t_us, ups[heir].t_us))]
