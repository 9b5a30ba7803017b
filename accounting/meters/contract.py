"""What every meter is, whatever it reads and wherever that is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from accounting.events import CounterReads, GpuTelemetry, MeterDown, MeterQuality, MeterUp

MeterEvent = MeterUp | MeterDown | MeterQuality | GpuTelemetry | CounterReads


class MeterError(Exception):
    """There is nothing that this meter could read. The message says what to do."""


class Meter(Protocol):
    """A source of energy reads. To be used from one thread; nothing here waits for a device or a network.

    Between `start` and `close` whatever fails is an event (`MeterDown`, and `MeterUp` when it works again),
    never an exception. A device's `MeterUp` comes before its first reads; its reads come in order of time.
    """

    def start(self) -> None:
        """Begin. Raises MeterError when that is impossible."""

    def set_busy(self, busy: bool) -> None:
        """Read often from now on, as requests run, or seldom again."""

    def drain(self) -> Sequence[MeterEvent]:
        """What happened since the last call, in order. Never waits."""

    def close(self) -> None:
        """Stop and let go of everything. Closing twice does nothing."""
