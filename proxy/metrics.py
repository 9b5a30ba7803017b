"""What Prometheus sees at /metrics. Labels are bounded: never a request, never a model nobody serves."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from accounting.events import AnyEvent, MeterDown, MeterUp
from accounting.records import BookEntry, Output, RequestRecord
from accounting.service import Accountant
from proxy.backends import Backends

JOULE_BUCKETS = (0.1, 0.3, 1, 3, 10, 30, 100, 300, 1_000, 3_000, 10_000, 30_000)


class Metrics:
    """Hears what the accountant says and concludes, and counts it."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        of_request = ("backend", "model")
        self._requests = self._counter("requests", "Requests ended, by how.", (*of_request, "status"))
        self._joules = self._counter(
            "request_energy_joules", "GPU energy charged to requests, by phase.", (*of_request, "phase")
        )
        self._tokens = self._counter("tokens", "Tokens as engines reported them.", (*of_request, "type"))
        self._unmeasured = self._counter(
            "requests_unmeasured", "Requests with time in flight that was not measured.", of_request
        )
        self._histogram = Histogram(
            "joulegate_request_energy",
            "GPU energy of one request, in joules.",
            of_request,
            buckets=JOULE_BUCKETS,
            registry=self.registry,
        )
        self._books = self._counter(
            "books_joules",
            "Energy of each GPU by where it went; measured = requests + idle + unobserved + unmeasured.",
            ("gpu", "part"),
        )
        self._uncovered = self._counter(
            "books_uncovered_seconds", "Time of each GPU whose energy is not known.", ("gpu",)
        )
        self._unbalanced = self._counter("books_unbalanced", "Intervals out of balance.", ("gpu",))
        self._meter_up = Gauge(
            "joulegate_meter_up", "Whether the GPU can be read.", ("gpu",), registry=self.registry
        )

    def _counter(self, name: str, text: str, labels: tuple[str, ...]) -> Counter:
        return Counter(f"joulegate_{name}", text, labels, registry=self.registry)

    def observe(self, accountant: Accountant, backends: Backends) -> None:
        """Show the state of these as well, read whenever Prometheus asks."""
        self.registry.register(_State(accountant, backends))

    def text(self) -> bytes:
        return generate_latest(self.registry)

    def event(self, event: AnyEvent) -> None:
        if isinstance(event, MeterUp):
            self._meter_up.labels(event.gpu).set(1)
        elif isinstance(event, MeterDown):
            self._meter_up.labels(event.gpu).set(0)

    def output(self, output: Output) -> None:
        if isinstance(output, BookEntry):
            self._book(output)
        else:
            self._request(output)

    def _book(self, entry: BookEntry) -> None:
        parts = {
            "measured": entry.measured_uj or 0,
            "requests": entry.requests_uj,
            "idle": entry.idle_uj,
            "unobserved": entry.unobserved_uj,
            "unmeasured": entry.unmeasured_uj,
        }
        for part, energy_uj in parts.items():
            self._books.labels(entry.gpu, part).inc(energy_uj / 1e6)
        self._uncovered.labels(entry.gpu).inc((entry.t1_us - entry.t0_us - entry.covered_us) / 1e6)
        self._unbalanced.labels(entry.gpu).inc(2 * parts["measured"] != sum(parts.values()))

    def _request(self, record: RequestRecord) -> None:
        # A model that no engine knew is any string a client likes: it gets no label of its own.
        known = record.status in ("ok", "aborted")
        labels = (record.backend or "", (record.model or "") if known else "")
        self._requests.labels(*labels, record.status).inc()
        if record.prefill_uj is not None and record.decode_uj is not None:
            self._joules.labels(*labels, "prefill").inc(record.prefill_uj / 1e6)
            self._joules.labels(*labels, "decode").inc(record.decode_uj / 1e6)
        if record.energy_uj is not None and record.status == "ok":
            self._histogram.labels(*labels).observe(record.energy_uj / 1e6)
        if record.unmeasured_us:
            self._unmeasured.labels(*labels).inc()
        for kind in ("prompt", "cached", "completion"):
            self._tokens.labels(*labels, kind).inc(getattr(record, f"{kind}_tokens") or 0)


class _State(Collector):
    """Gauges read from what they show."""

    def __init__(self, accountant: Accountant, backends: Backends) -> None:
        self._accountant, self._backends = accountant, backends

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily(
            "joulegate_requests_in_flight", "Requests at work now.", value=self._accountant.in_flight
        )
        yield GaugeMetricFamily(
            "joulegate_journal_pending_bytes",
            "Journal bytes that the disk has not taken.",
            value=self._accountant.journal.pending_bytes,
        )
        up = GaugeMetricFamily("joulegate_backend_up", "Whether the engine answers.", labels=["backend"])
        flying = GaugeMetricFamily(
            "joulegate_backend_in_flight", "Requests at work on the engine now.", labels=["backend"]
        )
        for backend in self._backends.all:
            up.add_metric([backend.id], 1.0 if backend.up else 0.0)
            flying.add_metric([backend.id], backend.in_flight)
        yield up
        yield flying
