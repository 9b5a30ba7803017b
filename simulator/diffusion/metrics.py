"""The diffusion server's Prometheus metrics, with the names of vLLM-Omni 0.30 as observed, and its habits:
what it calls execution includes the wait, and the gauges are those of the last arrival or end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

if TYPE_CHECKING:
    from simulator.diffusion.engine import MediaRun

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300)
_SHORT = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60)
_MODEL = ("model_name",)
_REPLICA = ("model_name", "replica", "stage")


class DiffusionMetrics:
    def __init__(self, model_name: str) -> None:
        self._registry = CollectorRegistry()
        self._model = model_name
        self._running = self._gauge("num_requests_running", "Requests that run.")
        self._waiting = self._gauge("num_requests_waiting", "Requests that wait.")
        self._success = self._counter(
            "requests_success", "Requests that ended.", (*_MODEL, "finished_reason")
        )
        self._failed = self._counter("requests_failed", "Requests that failed.", (*_MODEL, "reason"))
        self._images = self._counter("image_count", "Images made.", _MODEL)
        self._e2e = self._histogram("e2e_request_latency_s", "Latency, in seconds.", _SECONDS)
        self._queue = self._histogram("request_queue_wait_s", "Wait for the queue, in seconds.", _SECONDS)
        self._steps = self._histogram("num_inference_steps", "Steps per request.", Histogram.DEFAULT_BUCKETS)
        self._pixels = self._histogram("image_pixels", "Pixels per image.", Histogram.DEFAULT_BUCKETS)
        self._exec = self._histogram("diffusion_exec_s", "Execution, in seconds.", _SECONDS, _REPLICA)
        self._per_step = self._histogram(
            "diffusion_exec_per_step_s", "Execution per step, in seconds.", _SHORT, _REPLICA
        )
        self._stage = self._histogram(
            "stage_gen_time_s", "Generation, in seconds.", _SECONDS, (*_MODEL, "stage", "stage_type")
        )
        # There from the start, as zeros.
        self._images.labels(model_name)
        for histogram in (self._e2e, self._queue, self._steps, self._pixels):
            histogram.labels(model_name)

    def look(self, running: int, waiting: int) -> None:
        self._running.labels(self._model).set(running)
        self._waiting.labels(self._model).set(waiting)

    def left(self) -> None:
        """A request was taken back: it counts twice, and its work not at all."""
        self._success.labels(self._model, "abort").inc(2)
        self._failed.labels(self._model, "client_abort").inc()

    def finished(self, run: MediaRun) -> None:
        account, name = run.account, self._model
        took_s = run.generation_ms / 1000
        self._success.labels(name, "stop").inc()
        self._e2e.labels(name).observe(took_s)
        self._queue.labels(name).observe(run.queue_ms / 1000)
        self._steps.labels(name).observe(account.steps)
        self._exec.labels(name, "0", "0").observe(took_s)
        self._per_step.labels(name, "0", "0").observe(took_s / account.steps)
        self._stage.labels(name, "0", "diffusion").observe(took_s)
        if account.kind == "image":
            self._images.labels(name).inc(account.outputs)
            self._pixels.labels(name).observe(account.width * account.height)

    def text(self) -> bytes:
        """The exposition format, as /metrics answers it."""
        return generate_latest(self._registry)

    def _gauge(self, name: str, text: str) -> Gauge:
        gauge = Gauge(f"vllm_omni:{name}", text, _MODEL, registry=self._registry)
        gauge.labels(self._model).set(0)
        return gauge

    def _counter(self, name: str, text: str, labels: tuple[str, ...]) -> Counter:
        return Counter(f"vllm_omni:{name}", text, labels, registry=self._registry)

    def _histogram(
        self, name: str, text: str, buckets: tuple[float, ...], labels: tuple[str, ...] = _MODEL
    ) -> Histogram:
        return Histogram(f"vllm_omni:{name}", text, labels, registry=self._registry, buckets=buckets)
