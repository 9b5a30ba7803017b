"""One scenario run: what joulegate is told, and what is true."""

from __future__ import annotations

from dataclasses import dataclass

from accounting.events import AnyEvent
from benchmarks.traces import counter, telling
from benchmarks.traces.demand import Request, demand
from benchmarks.traces.engine import Engine, Run
from benchmarks.traces.scenario import Scenario

QUIET_S = 10.0
"""Idle time before the first request: the service is up before its clients."""

WARM_UP_S = 60.0
"""Requests that start this long after QUIET_S are judged: the work model has settled by then."""

TAIL_S = 8.0
"""Idle time after the last token: enough to settle everything."""


@dataclass(slots=True)
class Trace:
    scenario: Scenario
    requests: list[Request]
    run: Run
    events: list[AnyEvent]

    def judged(self) -> list[int]:
        """Numbers of the requests that errors are taken of."""
        return [
            number
            for number, request in enumerate(self.requests)
            if request.seen and request.arrived_s >= QUIET_S + WARM_UP_S
        ]


def make_trace(scenario: Scenario, measured_s: float) -> Trace:
    """Requests arrive through the warm-up and for `measured_s` (scenario.longer times that) after it; all are
    served to their end."""
    requests = demand(scenario, QUIET_S, QUIET_S + WARM_UP_S + measured_s * scenario.longer)
    run = Engine(scenario, requests).run(TAIL_S)
    events = telling.tell(scenario, requests, run, counter.read(scenario, run))
    return Trace(scenario, requests, run, events)
