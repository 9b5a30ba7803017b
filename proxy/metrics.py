"""What Prometheus sees at /metrics. Labels are bounded: never a request, never a model nobody serves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from functools import partial

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from accounting.events import AnyEvent
from accounting.records import BookEntry, Correction, Output, RequestRecord, boundary_of
from accounting.service import Accountant
from proxy import settings_observe as settings
from proxy.access_log import AccessLog
from proxy.backends import Backends
from proxy.gpu_metrics import GpuMetrics
from proxy.media.metrics import MediaMetrics, jobs_now
from proxy.operations import operation_of
from proxy.tallies import Counters, Histograms, Names, Shown
from proxy.telemetry import Telemetry

JOULES = (0.1, 0.3, 1, 3, 10, 30, 100, 300, 1_000, 3_000, 10_000, 30_000)
JOULES_PER_TOKEN = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50)

# Bounds in seconds that OpenTelemetry's conventions for generative AI metrics advise.
DURATION_S = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
TTFT_S = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
PER_TOKEN_S = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)

ENGINE = ("backend", "model")
PAYER = (*ENGINE, "tenant")
DEVICE = ("gpu", "boundary")
SERVED = ("gen_ai_operation_name", "gen_ai_request_model", "tenant")


class Metrics:
    """Hears what the accountant says and concludes, and counts it."""

    def __init__(self, bounds: settings.Metrics | None = None) -> None:
        bounds = bounds or settings.Metrics()
        self.registry = CollectorRegistry()
        self._models, self._tenants = Names(bounds.max_models), Names(bounds.max_tenants)
        self._requests = self._counters("requests", "Requests ended, by how.", (*PAYER, "status"))
        self._joules = self._counters(
            "request_energy_joules", "GPU energy charged to requests, by phase.", (*PAYER, "phase")
        )
        self._host_joules = self._counters(
            "request_host_joules", "Energy of hosts charged to requests, not in theirs.", (*PAYER, "method")
        )
        self._tokens = self._counters("tokens", "Tokens as engines reported them.", (*PAYER, "type"))
        self._unmeasured = self._counters(
            "requests_unmeasured", "Requests with time in flight that was not measured.", ENGINE
        )
        self._corrections = self._counters(
            "corrections", "Requests whose energy was corrected after it was counted.", ()
        )
        self._corrected = self._counters(
            "corrected_joules",
            "Energy that corrections gave to requests (gained) and took from others (lost).",
            ("direction",),
        )
        self._of_request = self._histograms(
            "joulegate_request_energy", "GPU energy of one request, in joules.", ENGINE, JOULES
        )
        self._per_token = self._histograms(
            "joulegate_joules_per_output_token",
            "GPU energy of one request over the tokens it generated.",
            ENGINE,
            JOULES_PER_TOKEN,
        )
        self._duration = self._histograms(
            "gen_ai_server_request_duration_seconds",
            "From dispatch to the last byte.",
            (*SERVED, "error_type"),
            DURATION_S,
        )
        self._ttft = self._histograms(
            "gen_ai_server_time_to_first_token_seconds",
            "From dispatch to the first token, of requests that went well.",
            SERVED,
            TTFT_S,
        )
        self._per_token_s = self._histograms(
            "gen_ai_server_time_per_output_token_seconds",
            "Mean time of a token after the first, of requests that went well.",
            SERVED,
            PER_TOKEN_S,
        )
        self._media = MediaMetrics(self._counters, self._histograms, PAYER, ENGINE)
        self._books = self._counters(
            "books_joules",
            "Energy of each GPU and host by where it went:"
            " measured = requests + idle + unobserved + unmeasured.",
            (*DEVICE, "part"),
        )
        self._uncovered = self._counters(
            "books_uncovered_seconds", "Time of each GPU and host whose energy is not known.", DEVICE
        )
        self._unbalanced = self._counters("books_unbalanced", "Intervals out of balance.", DEVICE)
        self._gpus = GpuMetrics()
        self.registry.register(Shown(self._gpus.collect))

    def _counters(self, name: str, text: str, labels: tuple[str, ...]) -> Counters:
        counters = Counters(f"joulegate_{name}", text, labels)
        self.registry.register(counters)
        return counters

    def _histograms(
        self, name: str, text: str, labels: tuple[str, ...], bounds: tuple[float, ...]
    ) -> Histograms:
        histograms = Histograms(name, text, labels, bounds)
        self.registry.register(histograms)
        return histograms

    def observe(
        self, accountant: Accountant, backends: Backends, access_log: AccessLog, telemetry: Telemetry
    ) -> None:
        """Show the state of these as well, read whenever Prometheus asks."""
        self.registry.register(Shown(lambda: _state(accountant)))
        self.registry.register(Shown(lambda: _health(backends)))
        self.registry.register(Shown(lambda: _told(access_log, telemetry)))

    async def text(self) -> bytes:
        """Prometheus' format, written family by family: with many tenants it takes tens of ms."""
        parts = []
        for family in list(self.registry.collect()):
            parts.append(generate_latest(Shown(partial(iter, (family,)))))
            await asyncio.sleep(0)
        return b"".join(parts)

    def devices(self) -> list[dict[str, object]]:
        """Every GPU and host as it is now (`GpuMetrics.devices`)."""
        return self._gpus.devices()

    def event(self, event: AnyEvent) -> None:
        self._gpus.event(event)

    def output(self, output: Output) -> None:
        if isinstance(output, RequestRecord):
            self._request(output)
        elif isinstance(output, Correction):
            self._correction(output)
        elif isinstance(output, BookEntry):
            self._book(output)

    def _correction(self, correction: Correction) -> None:
        # Counters cannot go down, so what was counted already stays, and the difference stands beside it.
        self._corrections.values[()] += 1
        direction = "gained" if correction.energy_uj > 0 else "lost"
        self._corrected.values[direction,] += abs(correction.energy_uj) / 1e6

    def _book(self, entry: BookEntry) -> None:
        parts = {
            "measured": entry.measured_uj or 0,
            "requests": entry.requests_uj,
            "idle": entry.idle_uj,
            "unobserved": entry.unobserved_uj,
            "unmeasured": entry.unmeasured_uj,
        }
        device = entry.gpu, boundary_of(entry.gpu)
        for part, energy_uj in parts.items():
            self._books.values[(*device, part)] += energy_uj / 1e6
        self._uncovered.values[device] += (entry.t1_us - entry.t0_us - entry.covered_us) / 1e6
        self._unbalanced.values[device] += 2 * parts["measured"] != sum(parts.values())

    def _request(self, record: RequestRecord) -> None:
        status, tokens = record.status, record.completion_tokens
        # A model that no engine knew is any string a client likes: it gets no label of its own.
        known = status in ("ok", "aborted")
        model = self._models.label(record.model or "") if known else ""
        tenant = self._tenants.label(record.tenant or "")
        engine = (record.backend or "", model)
        payer = (*engine, tenant)
        self._requests.values[(*payer, status)] += 1
        if record.prefill_uj is not None and record.decode_uj is not None:
            self._joules.values[(*payer, "prefill")] += record.prefill_uj / 1e6
            self._joules.values[(*payer, "decode")] += record.decode_uj / 1e6
        if record.host_uj is not None:
            self._host_joules.values[(*payer, record.host_method or "")] += record.host_uj / 1e6
        counted = (("prompt", record.prompt_tokens), ("cached", record.cached_tokens), ("completion", tokens))
        for kind, count in counted:
            if count is not None:
                self._tokens.values[(*payer, kind)] += count
        if record.unmeasured_us or record.energy_uj is None:
            self._unmeasured.values[engine] += 1
        served = (operation_of(record.route), model, tenant)
        duration_us = record.finished_us - record.started_us
        self._duration.of((*served, "" if status == "ok" else status)).observe(duration_us / 1e6)
        if status != "ok":
            return
        self._media.ended(record, payer, engine)
        if (first_us := record.first_token_us) is not None:
            self._ttft.of(served).observe((first_us - record.started_us) / 1e6)
            if tokens is not None and tokens > 1:
                per_token_us = (record.finished_us - first_us) / (tokens - 1)
                self._per_token_s.of(served).observe(per_token_us / 1e6)
        if record.energy_uj is not None:
            self._of_request.of(engine).observe(record.energy_uj / 1e6)
            if tokens:
                self._per_token.of(engine).observe(record.energy_uj / 1e6 / tokens)


def _state(accountant: Accountant) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "joulegate_requests_in_flight", "Requests at work now.", value=accountant.in_flight
    )
    yield from jobs_now(accountant)
    yield GaugeMetricFamily(
        "joulegate_journal_pending_bytes",
        "Journal bytes that the disk has not taken.",
        value=accountant.journal.pending_bytes,
    )


def _told(access_log: AccessLog, telemetry: Telemetry) -> Iterator[Metric]:
    yield CounterMetricFamily(
        "joulegate_access_log_dropped",
        "Lines of the access log that could not be written.",
        value=access_log.dropped,
    )
    spans = CounterMetricFamily(
        "joulegate_spans", "Spans of requests, sent to the collector or lost.", labels=["outcome"]
    )
    spans.add_metric(["sent"], telemetry.sent)
    spans.add_metric(["dropped"], telemetry.dropped)
    yield spans


def _health(backends: Backends) -> Iterator[Metric]:
    """How the engines are, and what was done about those that are not well."""
    now_s = time.monotonic()
    up = _gauge("backend_up", "Whether the engine answers.")
    ejected = _gauge(
        "backend_ejected", "Whether its failures keep it from getting requests: 1, on trial 0.5."
    )
    flying = _gauge("backend_in_flight", "Requests at work on the engine now.")
    work = _gauge("backend_work_tokens", "Tokens in flight on it, as far as can be guessed.")
    draining = _gauge("backend_draining", "Requests on engines taken out of the settings.")
    failed = _counter("backend_failures", "Tries that the engine failed.")
    ejections = _counter("backend_ejections", "Times that its failures ejected it.")
    retries = _counter("backend_retries", "Tries that failed here and were made again on another engine.")
    for backend in backends.all:
        names = [backend.id]
        circuit = {"closed": 0.0, "half_open": 0.5, "open": 1.0}[backend.passive.circuit(now_s)]
        up.add_metric(names, 1.0 if backend.up else 0.0)
        ejected.add_metric(names, circuit)
        flying.add_metric(names, backend.in_flight)
        work.add_metric(names, backend.work)
        failed.add_metric(names, backend.failed)
        ejections.add_metric(names, backend.passive.ejections)
        retries.add_metric(names, backend.retried)
    leaving: dict[str, int] = {}
    for backend in backends.leaving:
        leaving[backend.id] = leaving.get(backend.id, 0) + backend.in_flight
    for name, count in leaving.items():
        draining.add_metric([name], count)
    yield from (up, ejected, flying, work, draining, failed, ejections, retries)
    yield CounterMetricFamily(
        "joulegate_retries_refused",
        "Retries that the rules allowed and the budget did not.",
        value=backends.budget.refused,
    )


def _gauge(name: str, text: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"joulegate_{name}", text, labels=["backend"])


def _counter(name: str, text: str) -> CounterMetricFamily:
    return CounterMetricFamily(f"joulegate_{name}", text, labels=["backend"])
