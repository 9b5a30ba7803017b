"""Spans in, `RequestTimes` events out; what became of every span is counted."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from accounting.events import RequestTimes
from accounting.otlp.directory import Directory

if TYPE_CHECKING:  # what it imports is there only where traces are wanted
    from accounting.otlp.spans import Export

OUTCOMES = ("matched", "unknown", "repeated", "other", "faulty")
"""`matched` with a request; `unknown` request; `repeated` by a sender that tried again; `other` than the span
of a request; `faulty`: of a request, but with values that make no sense."""

REMEMBERED = 20_000
"""Spans whose repetition is noticed."""


class Receiver(Collector):
    """Belongs to one thread, that of the event loop. A collector of Prometheus metrics as well."""

    def __init__(
        self, directory: Directory, say: Callable[[RequestTimes], None], now_us: Callable[[], int]
    ) -> None:
        self._directory, self._say, self._now_us = directory, say, now_us
        self._seen: OrderedDict[tuple[bytes, bytes], None] = OrderedDict()
        self.spans: Counter[str] = Counter()
        """Spans received, by what became of them (OUTCOMES)."""
        self.malformed = 0
        """Exports that could not be read."""

    def take(self, export: Export) -> None:
        """One export, in its order."""
        for span in export.spans:
            if self._repeated((span.trace_id, span.span_id)):
                self.spans["repeated"] += 1
            elif (handle := self._directory.find(span)) is None:
                self.spans["unknown"] += 1
            else:
                self.spans["matched"] += 1
                self._say(RequestTimes(t_us=self._now_us(), handle=handle, times=span.times))
        self.spans["other"] += export.others
        self.spans["faulty"] += len(export.faulty)

    def refuse(self) -> None:
        """An export could not be read."""
        self.malformed += 1

    def _repeated(self, name: tuple[bytes, bytes]) -> bool:
        if not all(name):
            return False  # without a name one cannot be told from the other
        if name in self._seen:
            return True
        self._seen[name] = None
        while len(self._seen) > REMEMBERED:
            self._seen.popitem(last=False)
        return False

    def collect(self) -> Iterator[Metric]:
        spans = CounterMetricFamily(
            "joulegate_otlp_spans", "Spans received, by what became of them.", labels=["outcome"]
        )
        for outcome in OUTCOMES:
            spans.add_metric([outcome], self.spans[outcome])
        yield spans
        yield CounterMetricFamily(
            "joulegate_otlp_malformed", "Trace exports that could not be read.", value=self.malformed
        )
