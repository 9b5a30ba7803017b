"""All of access control, put together: made when the proxy starts, if keys are asked for."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from sqlalchemy import Engine

from accounting.access.store import AccessStore
from accounting.clock import Clock
from accounting.journal import Journal
from accounting.service import Accountant, Sink
from proxy.access.expected import Expected
from proxy.access.gate import Gate
from proxy.access.keeper import NOTE_FILE, Keeper, note, save
from proxy.access.scope import Scope
from proxy.access.spending import Collecting, Spending
from proxy.settings import Settings

log = logging.getLogger(__name__)

DIRECTORY = "access"
"""Of the files, in the data directory."""

MOST_SHOWN = 200
"""Scopes at /metrics: those under a budget that have spent the largest part of it."""


class Access:
    """Use: give `sink` and `spending` to the accountant, let it recover, then `recovered`."""

    def __init__(
        self, settings: Settings, engine: Engine, journal: Journal, sink: Sink, clock: Clock
    ) -> None:
        access, directory = settings.access, settings.data_dir / DIRECTORY
        first_j = access.first_request_joules
        self.settings = access
        self.gate = Gate(
            clock.now_us,
            Expected(),
            admin=access.admin_digest(),
            output_tokens=settings.routing.output_tokens,
            first_uj=None if first_j is None else round(first_j * 1e6),
        )
        self.sink = Collecting(sink)
        self.spending = Spending(self.gate, journal, directory / NOTE_FILE)
        self.keeper = Keeper(AccessStore(engine, clock.now_us), self.gate, directory)
        self._engine = engine

    def recovered(self, accountant: Accountant) -> None:
        """The accountant has recovered: take up keys, and what was spent with them."""
        self.gate.now_us = accountant.clock.now_us
        self.keeper.load()
        self.spending.recover(self._engine, self.sink.take(), accountant.ledger)
        self.gate.follow = self.spending.follow
        if not self.gate.keyring.keys and self.settings.admin_digest() is None:
            log.warning("a key is asked for and there is none: make one with `joulegate keys create`")

    async def run(self) -> None:
        """Keep keys fresh and notes written; runs until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.keeper.watch(self.settings.refresh_s))
            group.create_task(note(self.spending))

    def close(self) -> None:
        save(self.spending)

    def metrics(self) -> Iterator[Metric]:
        """For /metrics."""
        rejected = CounterMetricFamily(
            "joulegate_access_rejected", "Requests not let in, by why.", labels=["reason"]
        )
        for reason, count in self.gate.rejected.items():
            rejected.add_metric([reason], count)
        yield rejected
        yield CounterMetricFamily(
            "joulegate_access_unmeasured",
            "Requests under a budget whose energy could not be measured, so that none was charged.",
            value=self.spending.unmeasured,
        )
        yield from budgets(self.gate)


def budgets(gate: Gate) -> Iterator[Metric]:
    """For /metrics: those under a budget, as it stands now."""
    gate.keep_time()

    def gauge(name: str, text: str, *labels: str) -> GaugeMetricFamily:
        return GaugeMetricFamily(f"joulegate_access_{name}", text, labels=["scope", *labels])

    limit = gauge("budget_joules", "Budget of a key, project or team.", "period")
    spent = gauge("spent_joules", "Of it spent: settled requests.", "period")
    reserved = gauge("reserved_joules", "Of it reserved for requests that are not settled.")
    limited = sorted((s for s in gate.scopes.values() if s.limits_energy), key=_part, reverse=True)
    for scope in limited[:MOST_SHOWN]:
        reserved.add_metric([scope.name], scope.reserved_uj / 1e6)
        for period, limit_uj, spent_uj in _periods(scope):
            limit.add_metric([scope.name, period], limit_uj / 1e6)
            spent.add_metric([scope.name, period], spent_uj / 1e6)
    yield from (limit, spent, reserved)


def _periods(scope: Scope) -> Iterator[tuple[str, int, int]]:
    limits = scope.limits
    if limits.uj_per_day is not None:
        yield "day", limits.uj_per_day, scope.day_uj
    if limits.uj_per_month is not None:
        yield "month", limits.uj_per_month, scope.month_uj


def _part(scope: Scope) -> float:
    return max((spent_uj / max(limit_uj, 1) for _, limit_uj, spent_uj in _periods(scope)), default=0.0)
