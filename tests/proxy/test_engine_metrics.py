"""The poller of the engines' counters, against real servers."""

from __future__ import annotations

import asyncio
import functools
import http.server
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any, ParamSpec

import httpx
import pytest
from yarl import URL

from accounting.events import EngineCounters
from proxy import engine_metrics
from proxy.backends import Backend, Backends
from proxy.engine_metrics import EngineMetrics, Pace, read
from simulator.process import SimulatedEngine

QUICK = Pace(busy_s=0.01, idle_s=0.02, none_s=0.03, timeout_s=5.0)
LONG_S = 3600.0
DEADLINE_S = 30.0

P = ParamSpec("P")
Said = list[EngineCounters]

PAGE = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 3.0
vllm:num_requests_waiting{engine="0",model_name="m"} 2.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="m",reason="capacity"} 2.0
vllm:prompt_tokens_total{engine="0",model_name="m"} 1466.0
vllm:prompt_tokens_created{engine="0",model_name="m"} 1.795370885678573e+09
vllm:prompt_tokens_by_source_total{engine="0",model_name="m",source="local_compute"} 1466.0
vllm:prompt_tokens_cached_total{engine="0",model_name="m"} 512.0
vllm:generation_tokens_total{engine="0",model_name="m"} 4.097e+03
vllm:iteration_tokens_total_bucket{engine="0",le="+Inf",model_name="m"} 1468.0
vllm:iteration_tokens_total_count{engine="0",model_name="m"} 1468.0
vllm:iteration_tokens_total_sum{engine="0",model_name="m"} 5563.0
process_open_fds 40.0
"""

FIGURES = {
    "steps": 1468,
    "running": 3,
    "waiting": 2,
    "prompt_tokens": 1466,
    "cached_tokens": 512,
    "generation_tokens": 4097,
}


def steps(count: float, running: int = 0) -> str:
    return f"vllm:iteration_tokens_total_count {count}\nvllm:num_requests_running {running}\n"


@dataclass
class Engine:
    """A small HTTP server. GET /metrics is answered from `pages` in turn, then with the last again."""

    pages: list[tuple[int, str]]
    asked: int = 0
    others: list[str] = field(default_factory=list)
    hold: threading.Event | None = None
    """Answers wait for it."""
    url: str = ""

    def backend(self, *, owner: str = "vllm", up: bool | None = True) -> Backend:
        models = {"m": {"id": "m", "object": "model", "owned_by": owner}}
        return Backend("engine", URL(self.url), [], None, models=models, up=up)


@contextmanager
def serving(*pages: str | tuple[int, str], hold: threading.Event | None = None) -> Iterator[Engine]:
    engine = Engine([(200, page) if isinstance(page, str) else page for page in pages], hold=hold)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path != "/metrics":
                engine.others.append(self.path)
            status, text = engine.pages[min(engine.asked, len(engine.pages) - 1)]
            engine.asked += 1
            if engine.hold is not None:
                engine.hold.wait(DEADLINE_S)
            body = text.encode()
            try:
                self.send_response(status)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
            except (BrokenPipeError, ConnectionResetError):
                pass  # the client did not wait

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        engine.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield engine
        finally:
            if hold is not None:
                hold.set()
            server.shutdown()
            thread.join()


def in_loop(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """The test runs in an event loop."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        asyncio.run(test(*args, **kwargs))

    return run


async def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for it; fail at a deadline."""
    end_s = asyncio.get_running_loop().time() + DEADLINE_S
    while True:
        if condition():
            return
        assert asyncio.get_running_loop().time() < end_s, f"waited in vain: {what}"
        await asyncio.sleep(0.01)


@asynccontextmanager
async def polling(*backends: Backend, pace: Pace = QUICK) -> AsyncIterator[Said]:
    """A poller at work; gives what it says."""
    said: Said = []
    task = asyncio.create_task(EngineMetrics(backends, said.append, lambda: 42, pace).run())
    try:
        yield said
        assert not task.done(), task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def first_of(backend: Backend) -> EngineCounters:
    """What is said of it first."""
    async with polling(backend) as said:
        await until(lambda: bool(said), "counters")
        return said[0]


def told_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.name == engine_metrics.__name__]


def test_the_figures_of_a_page_are_read() -> None:
    assert read(PAGE) == FIGURES


def test_figures_of_several_engines_and_models_are_summed() -> None:
    page = PAGE + PAGE.replace('engine="0"', 'engine="1"') + PAGE.replace('"m"', '"a b} {\\"c\\" 7"')
    assert read(page) == {name: 3 * value for name, value in FIGURES.items()}


def test_the_part_of_the_kv_cache_in_use_is_the_mean_of_several_engines() -> None:
    page = 'vllm:kv_cache_usage_perc{engine="0"} 0.25\nvllm:kv_cache_usage_perc{engine="1"} 0.5\n'
    assert read(page + "vllm:num_preemptions_total 3\n") == {"kv_used": 0.375, "preemptions": 3}


def test_a_figure_may_stand_without_labels_and_with_a_time() -> None:
    page = 'vllm:num_requests_running 4\nvllm:num_requests_waiting{engine="0"} 5 1795370885678\n'
    assert read(page) == {"running": 4, "waiting": 5}


@pytest.mark.parametrize("value", ["NaN", "+Inf", "-1", "", "three", "1e300"])
def test_a_figure_that_is_no_number_is_not_known(value: str) -> None:
    page = f'vllm:num_requests_running{{engine="0"}} 4\nvllm:num_requests_running{{engine="1"}} {value}\n'
    assert read(page + "vllm:num_requests_waiting 1\n") == {"waiting": 1}


def test_a_page_of_another_engine_has_no_figures() -> None:
    assert read("# vllm:num_requests_running 1\nsglang:num_running_reqs 1\nvllm:other_total 2\nvllm:\n") == {}


@in_loop
async def test_what_an_engine_counts_is_said() -> None:
    with serving(PAGE) as engine:
        async with polling(engine.backend()) as said:
            await until(lambda: len(said) >= 2, "two looks")
    assert said[:2] == 2 * [EngineCounters(t_us=42, backend="engine", **FIGURES)]
    assert engine.others == []


@in_loop
async def test_a_figure_that_an_engine_lacks_is_none() -> None:
    with serving(steps(7)) as engine:
        said = await first_of(engine.backend())
    assert said == EngineCounters(t_us=42, backend="engine", steps=7, running=0)


@in_loop
async def test_counters_that_were_reset_are_said_as_they_are() -> None:
    with serving(steps(100), steps(200), steps(5)) as engine:
        async with polling(engine.backend()) as said:
            await until(lambda: len(said) >= 3, "three looks")
    assert [counters.steps for counters in said[:3]] == [100, 200, 5]


WITHOUT = [(404, "no"), (200, "sglang:num_running_reqs 1\n")]


@pytest.mark.parametrize("page", WITHOUT)
@in_loop
async def test_an_engine_without_counters_is_left_alone(page: tuple[int, str]) -> None:
    pace = Pace(busy_s=0.01, idle_s=0.01, none_s=LONG_S, timeout_s=5.0)
    with serving(page, steps(1)) as without, serving(steps(2)) as neighbour:
        async with polling(without.backend(), neighbour.backend(), pace=pace) as said:
            await until(lambda: without.asked == 1 and neighbour.asked > 10, "looks at both")
    assert {counters.steps for counters in said} == {2}
    assert without.asked == 1


@pytest.mark.parametrize("page", WITHOUT)
@in_loop
async def test_an_engine_without_counters_is_looked_at_again_later(
    page: tuple[int, str], caplog: pytest.LogCaptureFixture
) -> None:
    with serving(page, page, page, steps(1)) as engine:
        assert (await first_of(engine.backend())).steps == 1
    assert len(told_of(caplog)) == 1, "a fault that goes on is told once"


@in_loop
async def test_a_slow_answer_is_given_up_and_asked_for_again(caplog: pytest.LogCaptureFixture) -> None:
    hold = threading.Event()
    pace = Pace(busy_s=0.01, idle_s=0.01, timeout_s=0.2)
    with serving(steps(1), hold=hold) as engine:
        async with polling(engine.backend(), pace=pace) as said:
            await until(lambda: engine.asked >= 2, "a second try")
            assert said == []
            hold.set()
            await until(lambda: bool(said), "counters")
    assert told_of(caplog) == ["backend engine gives no counters: /metrics took longer than 0.2 s"]


@pytest.mark.parametrize("status", [500, 503, 401])
@in_loop
async def test_a_refusal_is_tried_again(status: int) -> None:
    with serving((status, "no"), steps(1)) as engine:
        assert (await first_of(engine.backend())).steps == 1


@in_loop
async def test_a_page_without_end_is_given_up(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(engine_metrics, "MAX_BYTES", 1000)
    with serving(steps(1) + "x" * 2000, steps(2)) as engine:
        assert (await first_of(engine.backend())).steps == 2
    assert told_of(caplog) == ["backend engine gives no counters: /metrics has no end"]


@in_loop
async def test_an_engine_that_is_down_or_not_vllm_is_not_asked_until_it_is() -> None:
    with serving(steps(1)) as away, serving(steps(2)) as other, serving(steps(3)) as neighbour:
        down, foreign = away.backend(up=False), other.backend(owner="sglang")
        async with polling(down, foreign, neighbour.backend()) as said:
            await until(lambda: neighbour.asked > 10, "looks at the neighbour")
            assert (away.asked, other.asked) == (0, 0)
            down.up, foreign.models = True, neighbour.backend().models
            await until(lambda: {counters.steps for counters in said} == {1, 2, 3}, "all three")


@in_loop
async def test_an_engine_that_cannot_be_reached_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    with serving(steps(1)) as engine, serving(steps(2)) as neighbour:
        backend = engine.backend()
        backend.url = URL("http://127.0.0.1:1")
        async with polling(backend, neighbour.backend()) as said:
            await until(lambda: bool(told_of(caplog)) and neighbour.asked > 10, "failures")
            assert told_of(caplog) == ["backend engine gives no counters: ConnectError at /metrics"]
            backend.url = URL(engine.url)
            await until(lambda: said[-1].steps == 1, "counters")


@in_loop
async def test_an_engine_at_work_is_asked_often_and_an_idle_one_seldom() -> None:
    pace = Pace(busy_s=0.01, idle_s=LONG_S, timeout_s=5.0)
    pages = (steps(1, running=1), steps(2, running=2), steps(3))
    with serving(*pages) as engine, serving(steps(9, running=1)) as neighbour:
        backend = engine.backend()
        async with polling(backend, neighbour.backend(), pace=pace) as said:
            await until(lambda: engine.asked >= 3, "looks while it works")
            before = neighbour.asked
            await until(lambda: neighbour.asked > before + 10, "looks at the neighbour")
            assert engine.asked == 3, "it does nothing: the next look is in an hour"
            backend.in_flight = 1
            await until(lambda: engine.asked >= 5, "looks as there is work for it")
    assert [counters.steps for counters in said if counters.steps != 9][:4] == [1, 2, 3, 3]


@in_loop
async def test_engines_do_not_wait_for_each_other() -> None:
    hold = threading.Event()
    pace = Pace(busy_s=0.01, idle_s=0.01, timeout_s=LONG_S)
    with serving(steps(1), hold=hold) as slow, serving(steps(2)) as fast:
        async with polling(slow.backend(), fast.backend(), pace=pace) as said:
            await until(lambda: len(said) >= 3 and slow.asked == 1, "looks at the fast one")
    assert {counters.steps for counters in said} == {2}


@in_loop
async def test_the_simulated_engine_is_understood(simulated: SimulatedEngine) -> None:
    backend = Backend("engine", URL(simulated.url), [], None)
    watch = asyncio.create_task(Backends([backend]).watch())
    await until(lambda: bool(backend.models), "its models")
    watch.cancel()
    before = await first_of(backend)
    body = {"model": "tiny", "prompt": "how much", "max_tokens": 9, "ignore_eos": True}
    async with httpx.AsyncClient(timeout=DEADLINE_S) as client:
        answer = await client.post(f"{simulated.url}/v1/completions", json=body)
    after = await first_of(backend)
    assert None not in (after.running, after.waiting, after.cached_tokens)
    assert (after.generation_tokens or 0) - (before.generation_tokens or 0) == 9
    assert (after.prompt_tokens or 0) - (before.prompt_tokens or 0) == answer.json()["usage"]["prompt_tokens"]
    assert (after.steps or 0) - (before.steps or 0) >= 9
