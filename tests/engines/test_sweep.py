"""A sweep of a real vLLM: what the load generator saw agrees with the engine's own metrics."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from statistics import mean, median

import httpx
import pytest
from click.testing import CliRunner
from prometheus_client.parser import text_string_to_metric_families

from joulegate.cli import main
from joulegate.sweep.results import load
from simulator.gpu.board import H100, Board
from simulator.gpu.library import build
from tests.engines.vllm_server import VllmServer
from tests.parity.proxy_process import ProxyProcess

pytestmark = pytest.mark.engine

LEVELS = (1, 2, 4, 8)
SHAPE = {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12}
HEADS = {"num_attention_heads": 12, "num_key_value_heads": 4}
FLAGS = ("--max-num-seqs", "8", "--load-format", "dummy", "--hf-overrides", json.dumps(SHAPE | HEADS))
"""A model of 70 million parameters, some 25 ms a step. With the tiny one a whole answer is computed before
vLLM's own server finds the time to write its first token."""
TOKENS = {"prompt": "vllm:prompt_tokens_total", "generated": "vllm:generation_tokens_total"}
TIMES = {"ttft": "vllm:time_to_first_token_seconds", "e2e": "vllm:e2e_request_latency_seconds"}

Bucket = tuple[float, float]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[VllmServer, ProxyProcess]]:
    directory = tmp_path_factory.mktemp("sweep")
    Board.create(directory / "board", [H100]).close()
    library = build(directory)
    with (
        VllmServer(directory / "vllm.log", FLAGS) as vllm,
        ProxyProcess(directory / "proxy", vllm.url, library, [H100.uuid]) as proxy,
    ):
        # A server's first answer takes seconds: templates and kernels are made ready.
        body = {"model": vllm.model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
        httpx.post(f"{proxy.url}/v1/chat/completions", json=body, timeout=60).raise_for_status()
        yield vllm, proxy


class Counters:
    """What vLLM has counted: tokens, and for each time its sum, count and buckets (upper bound, count)."""

    def __init__(self, vllm: VllmServer) -> None:
        text = httpx.get(f"{vllm.url}/metrics").raise_for_status().text
        samples = [s for family in text_string_to_metric_families(text) for s in family.samples]
        self.values = {sample.name: sample.value for sample in samples}
        self.buckets = {
            time: [(float(s.labels["le"]), s.value) for s in samples if s.name == f"{TIMES[time]}_bucket"]
            for time in TIMES
        }

    def tokens(self, name: str, before: Counters) -> float:
        return self.values[TOKENS[name]] - before.values.get(TOKENS[name], 0.0)

    def mean_ms(self, time: str, before: Counters) -> tuple[float, float]:
        """Mean in ms, and of how many."""
        total, count = (
            self.values[f"{TIMES[time]}_{what}"] - before.values.get(f"{TIMES[time]}_{what}", 0.0)
            for what in ("sum", "count")
        )
        return 1000 * total / count, count

    def median_ms(self, time: str, before: Counters) -> Bucket:
        """The bucket in which the median is."""
        earlier = dict(before.buckets[time])
        counts = [(bound, count - earlier.get(bound, 0.0)) for bound, count in self.buckets[time]]
        low = 0.0
        for bound, count in counts:
            if count >= counts[-1][1] / 2:
                return 1000 * low, 1000 * bound
            low = bound
        raise AssertionError("a histogram without a last bucket")


def test_a_sweep_of_vllm_agrees_with_its_metrics(
    server: tuple[VllmServer, ProxyProcess], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vllm, proxy = server
    told = ["sweep", "--url", proxy.url, "--model", vllm.model, "--seconds", "20", "--shorter", "0.1"]
    lines = []
    ratios: dict[str, list[float]] = {time: [] for time in TIMES}
    for level in LEVELS:
        before = Counters(vllm)
        done = CliRunner().invoke(main, [*told, "--levels", str(level), "--out", str(tmp_path)])
        assert done.exit_code == 0, done.output
        after = Counters(vllm)
        ran = next(ran for ran in load(tmp_path)[1] if ran.level.level == level)
        assert ran.level.proof.exact
        assert {seen.status for seen in ran.seen} == {"ok"}
        assert after.tokens("generated", before) == sum(seen.tokens or 0 for seen in ran.seen)
        assert after.tokens("prompt", before) == sum(seen.prompt_tokens or 0 for seen in ran.seen)
        cells = [f"{level}", f"{len(ran.seen)}", f"{after.tokens('generated', before):.0f}"]
        for time in TIMES:
            engine_ms, count = after.mean_ms(time, before)
            low_ms, high_ms = after.median_ms(time, before)
            seen_ms = [value for seen in ran.seen if (value := getattr(seen, f"{time}_ms")) is not None]
            assert count == len(ran.seen) > level
            ratios[time].append(mean(seen_ms) / engine_ms)
            cells += [f"{mean(seen_ms):.0f} / {median(seen_ms):.0f}"]
            cells += [f"{engine_ms:.0f} / {low_ms:.0f} to {high_ms:.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    for time, found in ratios.items():
        # The client sees each moment after the engine: two hops, on cores that the engine fills, so at some
        # levels much later on a slow machine. Two clocks that measured different things would never agree.
        assert 0.98 < min(found) < 1.5, (time, found)
    with capsys.disabled():
        print("\n| in flight | requests | tokens | TTFT here | vLLM | response here | vLLM |")
        print("\n".join(lines))
