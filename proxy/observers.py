"""All who hear what the accountant says, as one listener of it."""

from __future__ import annotations

from accounting.events import AnyEvent
from accounting.records import Output
from accounting.service import Listener


class Observers:
    """Calls each in turn. Those may not raise: they run where the accountant does."""

    def __init__(self, *listeners: Listener) -> None:
        self._listeners = list(listeners)

    def add(self, listener: Listener) -> None:
        """One more, heard after the others."""
        self._listeners.append(listener)

    def event(self, event: AnyEvent) -> None:
        for listener in self._listeners:
            listener.event(event)

    def output(self, output: Output) -> None:
        for listener in self._listeners:
            listener.output(output)
