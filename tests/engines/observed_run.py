"""One observed run: a real vLLM that says what it does, joulegate in front of it, and a mixed load.

vLLM computes on the CPU, so the meter reads a simulated GPU that idles: time and counts are what is looked
at here, no joules.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from joulegate.process import ProxyProcess
from simulator.gpu.board import H100, Board
from simulator.gpu.library import build
from tests.engines.iterations import Iteration, log_settings, read_iterations
from tests.engines.ledger_view import LedgerView, view
from tests.engines.mixed_load import Sent, send_load, sequences_of
from tests.engines.spans import Span, SpanReceiver
from tests.engines.vllm_server import VllmServer
from tests.parity.pair import Pair, until

SPANS_EVERY_MS = 300
"""How often vLLM is to send its spans; OpenTelemetry's own 5 s would only make the run longer."""


@dataclass(frozen=True)
class Run:
    """What was sent, and what each side says of it."""

    sent: list[Sent]
    iterations: list[Iteration]
    spans: list[Span]
    ledger: LedgerView


def observe(directory: Path, phase_s: float, *, engine_times: bool = True) -> Run:
    """Start everything in `directory`, send each phase of the load for so long, and gather what was said.

    Without `engine_times` vLLM tells the ledger no times of a request (`--enable-per-request-metrics` is its
    default off), which is how most servers are run.
    """
    Board.create(directory / "board", [H100]).close()
    library = build(directory)
    logging = directory / "logging.json"
    logging.write_text(json.dumps(log_settings()))
    log = directory / "vllm.log"
    with SpanReceiver() as receiver:
        flags = ("--otlp-traces-endpoint", receiver.url)
        environment = {
            "VLLM_LOGGING_CONFIG_PATH": str(logging),
            "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
            "OTEL_BSP_SCHEDULE_DELAY": str(SPANS_EVERY_MS),
        }
        with VllmServer(log, flags, environment, engine_times=engine_times) as vllm:
            settings = {
                "backends": [{"id": "engine", "url": vllm.url, "gpus": [H100.uuid]}],
                "meter": {"library": str(library)},
            }
            with ProxyProcess(directory / "proxy", settings) as proxy:
                pair = Pair(vllm.url, proxy.url, vllm.model)
                sent = send_load(proxy.url, vllm.model, phase_s)
                until(lambda: _all_final(pair, len(sent)), f"{len(sent)} final records")
                wanted = sequences_of(sent)
                until(lambda: len(receiver.spans()) >= wanted or None, f"{wanted} spans")
        spans = receiver.spans()
    return Run(sent, read_iterations(log), spans, view(proxy.data_dir / "journal"))


def _all_final(pair: Pair, count: int) -> bool | None:
    records = pair.records()
    return (len(records) == count and all(record["state"] == "final" for record in records)) or None
