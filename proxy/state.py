"""What the running proxy consists of, for the routes that show it."""

from __future__ import annotations

from dataclasses import dataclass, field

from accounting.events import AnyEvent, MeterDown, MeterUp
from accounting.records import Output
from accounting.service import Accountant
from accounting.store.writer import StoreWriter
from proxy.backends import Backends
from proxy.metrics import Metrics


@dataclass
class Watcher:
    """Hears what the accountant says; remembers which GPUs cannot be read and why, and counts the rest."""

    metrics: Metrics
    faults: dict[str, str] = field(default_factory=dict)

    def event(self, event: AnyEvent) -> None:
        if isinstance(event, MeterDown):
            self.faults[event.gpu] = f"{event.code}: {event.message}"
        elif isinstance(event, MeterUp):
            self.faults.pop(event.gpu, None)
        self.metrics.event(event)

    def output(self, output: Output) -> None:
        self.metrics.output(output)


@dataclass
class State:
    backends: Backends
    accountant: Accountant
    writer: StoreWriter
    metrics: Metrics
    watcher: Watcher

    def meter_faults(self) -> dict[str, str]:
        return dict(self.watcher.faults)
