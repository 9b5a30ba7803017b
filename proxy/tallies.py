"""Counters and histograms of requests, kept as plain numbers and shown to Prometheus when it asks.

prometheus_client's own children take a lock and some microseconds per observation; a dozen of them per
request is time that the relay needs. All of this runs in the event loop's thread, so plain numbers do.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

OTHER = "other"
"""Label of all names beyond the bound."""

T = TypeVar("T")


class Names:
    """Labels for names that clients choose: the first `most` of them as they are, all others as `other`."""

    __slots__ = ("_known", "most")

    def __init__(self, most: int) -> None:
        self.most = most
        self._known: set[str] = set()

    def label(self, name: str) -> str:
        if name in self._known or name == "":
            return name
        if len(self._known) >= self.most:
            return OTHER
        self._known.add(name)
        return name


class Histogram:
    """Counts of values between bounds, and their sum."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def buckets(self) -> list[tuple[str, float]]:
        """Cumulative, as Prometheus wants them."""
        below, shown = 0, []
        for bound, count in zip([*map(_bound, self.bounds), "+Inf"], self.counts, strict=True):
            below += count
            shown.append((bound, float(below)))
        return shown


def _bound(bound: float) -> str:
    return str(float(bound))


class Counters(Collector):
    """A family of counters: `counters[labels] += x`."""

    def __init__(self, name: str, text: str, labels: tuple[str, ...]) -> None:
        self._name, self._text, self._labels = name, text, labels
        self.values: defaultdict[tuple[str, ...], float] = defaultdict(float)

    def collect(self) -> Iterator[Metric]:
        family = CounterMetricFamily(self._name, self._text, labels=self._labels)
        for labels, value in list(self.values.items()):
            family.add_metric(labels, value)
        yield family


class Histograms(Collector):
    """A family of histograms with the same bounds."""

    def __init__(self, name: str, text: str, labels: tuple[str, ...], bounds: Sequence[float]) -> None:
        self._name, self._text, self._labels, self._bounds = name, text, labels, bounds
        self._all: dict[tuple[str, ...], Histogram] = {}

    def of(self, labels: tuple[str, ...]) -> Histogram:
        found = self._all.get(labels)
        if found is None:
            found = self._all[labels] = Histogram(self._bounds)
        return found

    def collect(self) -> Iterator[Metric]:
        family = HistogramMetricFamily(self._name, self._text, labels=self._labels)
        for labels, histogram in list(self._all.items()):
            family.add_metric(labels, histogram.buckets(), histogram.total)
        yield family


class Shown(Collector):
    """A metric made anew whenever it is asked for."""

    def __init__(self, make: Callable[[], Iterator[Metric]]) -> None:
        self._make = make

    def collect(self) -> Iterator[Metric]:
        return self._make()
