"""Whether the load generator keeps up: of its own process the CPU time, and how late it wakes.

A process that is busy all the time, or wakes late, sees answers later than they came and sends later than it
should: then it is what is measured, not the server. `slow` says so.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import gevent  # type: ignore[import-untyped]
import numpy as np

NAP_S = 0.02
CPU_LIMIT = 0.9
"""Share of a core above which a process is taken to be the bottleneck; Locust warns at the same."""

LAG_LIMIT_MS = 10.0
"""So late at the 90th percentile, too: then times are seen that much too late. A process with time to spare
was seen to wake 1 to 3 ms late.
"""


@dataclass(frozen=True, slots=True)
class Health:
    """Of one process between the begin and the end of sending; `*_at` in unix seconds.

    `lag_ms` is the 90th percentile of how late it woke, `late_ms` that of how late it sent in an open loop.
    """

    began_at: float
    stopped_at: float
    cpu_share: float
    lag_ms: float
    late_ms: float | None
    requests: int
    chunks: int

    @property
    def slow(self) -> bool:
        """Whether this load generator, not the server, may be what was measured."""
        return (
            self.cpu_share > CPU_LIMIT or self.lag_ms > LAG_LIMIT_MS or (self.late_ms or 0.0) > LAG_LIMIT_MS
        )


class Watch:
    """Watches its own process from `start` to `stop`. Requests and chunks are counted by who serves them."""

    def __init__(self) -> None:
        self.requests = self.chunks = 0
        self.late_ms: list[float] = []
        self._lag_ms: list[float] = []
        self._began: tuple[float, float, float] | None = None
        self._napping = gevent.spawn(self._nap)

    def start(self) -> None:
        self._began = time.time(), time.perf_counter(), time.process_time()

    def stop(self) -> Health | None:
        """What was seen; None if it did not run."""
        if self._began is None:
            return None
        began_at, began_s, cpu_s = self._began
        self._began = None
        took_s = time.perf_counter() - began_s
        return Health(
            began_at=began_at,
            stopped_at=time.time(),
            cpu_share=(time.process_time() - cpu_s) / took_s,
            lag_ms=float(np.percentile(self._lag_ms, 90)) if self._lag_ms else 0.0,
            late_ms=float(np.percentile(self.late_ms, 90)) if self.late_ms else None,
            requests=self.requests,
            chunks=self.chunks,
        )

    def _nap(self) -> None:
        while True:
            before_s = time.perf_counter()
            gevent.sleep(NAP_S)
            if self._began is not None:
                self._lag_ms.append(1000 * (time.perf_counter() - before_s - NAP_S))


def save(health: Health, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**asdict(health), "slow": health.slow}) + "\n")
