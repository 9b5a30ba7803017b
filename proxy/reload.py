"""Takes changed settings into the running proxy, without touching a request in flight.

A reload reads the settings as the start did. A fault anywhere leaves everything as it is. What can change
live is listed in `LIVE`; what else differs is told, and waits for a restart. Only paths of settings are ever
logged, as values can be secrets.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from pydantic import BaseModel

from accounting.clock import Clock
from accounting.events import BackendDeclared
from accounting.events import ModelCard as CardEvent
from proxy.backends import Backends
from proxy.settings import Backend, Settings, SettingsError

log = logging.getLogger(__name__)

LIVE = ("backends", "routing", "health", "retry", "timeouts", "energy", "access_log")
"""Groups of settings that can change while joulegate runs."""

Use = Callable[[Settings], None]


@dataclass(slots=True)
class Report:
    """What a reload did; lists of paths such as `timeouts.idle_s`."""

    applied: list[str] = field(default_factory=list)
    restart: list[str] = field(default_factory=list)
    """Changed in the file, but only a restart can take it."""
    notes: list[str] = field(default_factory=list)
    fault: str | None = None
    """Why nothing was changed at all."""


class Reloader:
    """`load` reads the settings anew; `uses` are called in turn with them, by the group that changed."""

    def __init__(
        self,
        current: Settings,
        load: Callable[[], Settings],
        uses: Mapping[str, Use | Callable[[Settings], list[str]]],
    ) -> None:
        unknown = set(uses) - set(LIVE)
        if unknown:
            raise ValueError(f"not among the groups that can change live: {', '.join(sorted(unknown))}")
        self.current = current
        self._load, self._uses = load, uses

    def reload(self) -> Report:
        """Read the settings and apply what can be; everything is told in the log as well."""
        report = Report()
        try:
            new = self._load()
        except SettingsError as error:
            report.fault = str(error)
            log.error("the settings were not reloaded, nothing changed: %s", error)
            return report
        kept: dict[str, object] = {}
        for name in type(self.current).model_fields:
            old_value, new_value = getattr(self.current, name), getattr(new, name)
            paths = list(differences(name, old_value, new_value))
            if not paths and name != "access_log":  # its file is opened again, changed or not
                continue
            if name in self._uses:
                report.notes += self._uses[name](new) or []
                report.applied += paths
            else:
                report.restart += paths
                kept[name] = old_value
        self.current = new.model_copy(update=kept)
        _tell(report)
        return report


def _tell(report: Report) -> None:
    log.info("settings reloaded: %s", ", ".join(report.applied) or "nothing changed")
    if report.restart:
        log.warning("these changes need a restart: %s", ", ".join(report.restart))
    for note in report.notes:
        log.warning("%s", note)


def differences(path: str, old: object, new: object) -> Iterator[str]:
    """Paths of the settings that differ; a list counts as one."""
    if isinstance(old, BaseModel) and isinstance(new, BaseModel):
        for name in type(old).model_fields:
            yield from differences(f"{path}.{name}", getattr(old, name), getattr(new, name))
    elif old != new:
        yield path


@dataclass(frozen=True, slots=True)
class BackendsChange:
    """Applies changed backends: who is added is declared to the ledger, who is gone drains."""

    backends: Backends
    found: Sequence[str]
    """UUIDs of the GPUs that the meter found at the start, which is what `gpus: all` means."""
    measured: frozenset[str]
    declare: Callable[[BackendDeclared], None]
    clock: Clock
    traces: bool
    """Whether the engines' traces are taken, which is so until a restart."""

    def __call__(self, new: Settings) -> list[str]:
        gpus = {one.id: gpus_of(one, self.found) for one in new.backends}
        changes = self.backends.apply(new.backends, gpus)
        cards = {one.id: one for one in new.backends}
        for backend in self.backends.all:
            one, now_us = cards[backend.id], self.clock.now_us()
            self.declare(declaration(one, backend.gpus, now_us, traces=self.traces))
        notes = [
            f"backend {backend.id}: GPU {gpu} is not measured until a restart"
            for backend in [*changes.added, *changes.changed]
            for gpu in backend.gpus
            if gpu not in self.measured
        ]
        notes += [
            f"backend {gone.id} at {gone.url} gets no new requests; {gone.in_flight} in flight may end"
            for gone in changes.removed
        ]
        return notes


def gpus_of(configured: Backend, found: Sequence[str]) -> list[str]:
    """The GPUs of a backend, all that were found where it does not name them."""
    return list(found) if configured.gpus == "all" else list(configured.gpus)


def declaration(configured: Backend, gpus: list[str], t_us: int, *, traces: bool) -> BackendDeclared:
    """What the ledger is told of a backend. `traces`: whether its traces are taken."""
    card = configured.model_card
    return BackendDeclared(
        t_us=t_us,
        backend=configured.id,
        gpus=gpus,
        model=CardEvent(**card.model_dump()) if card is not None else None,
        tells_late=traces,
        at_once=configured.at_once,
    )
