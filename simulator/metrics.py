"""The engine's Prometheus metrics, with the names, labels and buckets of vLLM 0.32 as observed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

if TYPE_CHECKING:
    from simulator.engine import Run

_LABELS = ("engine", "model_name")
_REQUEST_S = (0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680)
_TTFT_S = (
    0.001,
    0.005,
    0.01,
    0.02,
    0.04,
    0.06,
    0.08,
    0.1,
    0.25,
    0.5,
    0.75,
    1,
    2.5,
    5,
    7.5,
    10,
    20,
    40,
    80,
    160,
)
_ITL_S = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80)
_TOKENS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
_REASONS = ("stop", "length", "abort", "error")


class Metrics:
    """One engine's figures. Times come in microseconds and go out in seconds."""

    def __init__(self, model_name: str) -> None:
        self._registry = CollectorRegistry()
        self._values = ("0", model_name)
        self._running = self._gauge("num_requests_running", "Number of requests in model execution batches.")
        self._waiting = self._gauge("num_requests_waiting", "Number of requests waiting to be processed.")
        self._kv = self._gauge("kv_cache_usage_perc", "KV-cache usage. 1 means 100 percent usage.")
        self._prompt = self._counter("prompt_tokens", "Number of prefill tokens processed.")
        self._cached = self._counter("prompt_tokens_cached", "Number of cached prompt tokens.")
        self._queries = self._counter("prefix_cache_queries", "Prefix cache queries, in tokens.")
        self._hits = self._counter("prefix_cache_hits", "Prefix cache hits, in tokens.")
        self._generated = self._counter("generation_tokens", "Number of generation tokens processed.")
        self._preempted = self._counter("num_preemptions", "Cumulative number of preemptions.")
        success = Counter(
            "vllm:request_success",
            "Count of successfully processed requests.",
            (*_LABELS, "finished_reason"),
            registry=self._registry,
        )
        self._success = {reason: success.labels(*self._values, reason) for reason in _REASONS}
        self._iteration = self._histogram(
            "iteration_tokens_total", "Number of tokens per engine_step.", _TOKENS
        )
        self._ttft = self._histogram(
            "time_to_first_token_seconds", "Time to first token in seconds.", _TTFT_S
        )
        self._itl = self._histogram("inter_token_latency_seconds", "Inter-token latency in seconds.", _ITL_S)
        self._e2e = self._request("e2e_request_latency_seconds", "End-to-end request latency")
        self._queue = self._request("request_queue_time_seconds", "Time spent in WAITING phase")
        self._inference = self._request("request_inference_time_seconds", "Time spent in RUNNING phase")
        self._prefill = self._request("request_prefill_time_seconds", "Time spent in PREFILL phase")
        self._decode = self._request("request_decode_time_seconds", "Time spent in DECODE phase")
        self._preemptions = self._histogram(
            "request_num_preemptions", "Number of times a request was preempted.", (0, 1, 2, 5, 10)
        )

    def watch(
        self, running: Callable[[], float], waiting: Callable[[], float], kv: Callable[[], float]
    ) -> None:
        """Where the gauges are read from when somebody asks."""
        self._running.set_function(running)
        self._waiting.set_function(waiting)
        self._kv.set_function(kv)

    def step(self, tokens: int) -> None:
        self._iteration.observe(tokens)

    def preempted(self, count: int) -> None:
        if count:
            self._preempted.inc(count)

    def first_token(self, since_arrival_us: int, prompt_tokens: int, cached_tokens: int) -> None:
        self._ttft.observe(since_arrival_us / 1e6)
        self._prefilled(prompt_tokens, cached_tokens)
        self._generated.inc()

    def next_token(self, since_last_us: int) -> None:
        self._itl.observe(since_last_us / 1e6)
        self._generated.inc()

    def finished(self, run: Run) -> None:
        """A run ended by itself. An aborted one is not counted, as in vLLM."""
        scheduled_us = run.scheduled_us or run.arrived_us
        last_us = run.last_token_us or scheduled_us
        first_us = run.first_token_us
        if first_us is None:  # embeddings have no first token
            self._prefilled(run.sequence.prompt_tokens, run.sequence.cached_tokens or 0)
            first_us = last_us
        self._success[run.finish_reason or "error"].inc()
        self._e2e.observe((last_us - run.arrived_us) / 1e6)
        self._queue.observe((scheduled_us - run.arrived_us) / 1e6)
        self._inference.observe((last_us - scheduled_us) / 1e6)
        self._prefill.observe((first_us - scheduled_us) / 1e6)
        self._decode.observe((last_us - first_us) / 1e6)
        self._preemptions.observe(run.sequence.preemptions)

    def text(self) -> bytes:
        """The exposition format, as /metrics answers it."""
        return generate_latest(self._registry)

    def _prefilled(self, prompt_tokens: int, cached_tokens: int) -> None:
        self._prompt.inc(prompt_tokens)
        self._queries.inc(prompt_tokens)
        self._cached.inc(cached_tokens)
        self._hits.inc(cached_tokens)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"vllm:{name}", text, _LABELS, registry=self._registry).labels(*self._values)

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(f"vllm:{name}", text, _LABELS, registry=self._registry).labels(*self._values)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        histogram = Histogram(f"vllm:{name}", text, _LABELS, registry=self._registry, buckets=buckets)
        return histogram.labels(*self._values)

    def _request(self, name: str, text: str) -> Histogram:
        return self._histogram(name, f"{text} for request, in seconds.", _REQUEST_S)
