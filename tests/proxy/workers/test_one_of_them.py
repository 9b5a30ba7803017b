"""What a client sees of a worker, and what the main process does about one that hangs."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import httpx
import pytest

from simulator.process import SimulatedEngine
from tests.proxy.collector import Collector
from tests.proxy.replicas import gauges, reload
from tests.proxy.stack import CHAT, Stack, chat, error_of, events, running, until
from tests.proxy.workers.streams import END, RawStream
from tests.proxy.workers.test_many import several, sources, workers

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="ports are shared as Linux shares them")

CLIENTS = 16
"""Connections, so that with near certainty each of two processes gets some."""


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector() as one:
        yield one


@pytest.fixture(scope="module")
def stack(
    simulated: SimulatedEngine, collector: Collector, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    directory = tmp_path_factory.mktemp("workers")
    settings = several(
        simulated,
        workers=2,
        telemetry={"enabled": True, "endpoint": collector.url},
        access_log={"enabled": True, "path": str(directory / "access.log")},
    )
    with running(directory, settings) as one:
        yield one


@pytest.fixture
def clients(stack: Stack) -> Iterator[list[httpx.Client]]:
    """Clients with a connection each."""
    with ExitStack() as open_ones:
        yield [
            open_ones.enter_context(httpx.Client(base_url=stack.proxy.url, timeout=30.0))
            for _ in range(CLIENTS)
        ]


def test_every_process_answers_alike(stack: Stack, clients: list[httpx.Client]) -> None:
    for number, client in enumerate(clients):
        named = {"x-request-id": f"alike {number}"}
        answer = client.post(CHAT, json=chat(), headers=named).json()
        assert answer["energy"]["state"] == "provisional"
        assert answer["energy"]["energy_joules"] > 0
        body = chat(stream=True, stream_options={"include_usage": True})
        last = events(client.post(CHAT, json=body, headers=named).text)[-1]
        assert last["energy"]["request_id"] == f"alike {number}"
        assert last["energy"]["energy_joules"] > 0
        assert client.get(f"/v1/energy/requests/alike {number}").json()["request_id"] == f"alike {number}"
        assert client.get("/ready").status_code == 200
        assert error_of(client.get("/nothing/here"))["message"] == "there is no /nothing/here here"
        nothing = client.head("/nothing/here")
        assert (nothing.status_code, nothing.content) == (404, b"")
        alive = client.head("/health")
        assert (alive.status_code, alive.content) == (200, b"")
        mistyped = client.post("/v1/energy/TYPO", json=chat(), headers={"x-request-id": f"mistyped {number}"})
        assert (mistyped.status_code, error_of(mistyped)["type"]) == (404, "not_found_error")
        assert client.get(f"/v1/energy/requests/mistyped {number}").status_code == 404
    assert set(sources(stack.proxy.data_dir)) == {0, 1}


def test_spans_and_lines_of_all_processes_are_written(
    stack: Stack, clients: list[httpx.Client], collector: Collector
) -> None:
    for number, client in enumerate(clients):
        parent = f"{number + 1:016x}"
        headers = {"x-request-id": f"traced {number}", "traceparent": f"00-{'ab' * 16}-{parent}-01"}
        assert client.post(CHAT, json=chat(), headers=headers).status_code == 200
        plain = {"x-request-id": f"plain {number}"}
        assert client.post("/tokenize", json={"prompt": "x"}, headers=plain).status_code == 200
    for number in range(CLIENTS):
        span = until(lambda n=number: collector.span(f"traced {n}"), "the span is there")  # type: ignore[misc]
        assert span["parentSpanId"] == f"{number + 1:016x}"
    wanted = {f"{kind} {number}" for kind in ("plain", "traced") for number in range(CLIENTS)}
    log = stack.proxy.directory / "access.log"

    def lines() -> set[str]:
        return {json.loads(line)["request_id"] for line in log.read_text().splitlines()}

    until(lambda: wanted <= lines(), "a line for each")


def test_an_end_waits_for_the_journal_and_its_energy_for_a_second(stack: Stack) -> None:
    os.kill(stack.proxy.pid, signal.SIGSTOP)
    try:
        streams = [RawStream(stack.proxy.url) for _ in range(CLIENTS)]

        def shown() -> list[RawStream]:
            return [one for one in streams if b"data: [DONE]" in one.read()]

        theirs = until(shown, "the worker shows the ends of its streams without energy")
        assert not any(one.read().endswith(END) for one in streams)
    finally:
        os.kill(stack.proxy.pid, signal.SIGCONT)
    for one in streams:
        until(lambda one=one: one.read().endswith(END), "the end")  # type: ignore[misc]
        one.socket.close()
    for one in theirs:
        assert b'"energy":{"energy_joules":null' in one.got
        assert b'"state":"pending"' in one.got
    ours = [one for one in streams if one not in theirs]
    assert all(b'"state":"provisional"' in one.got for one in ours if b"[DONE]" in one.got)


def test_books_go_on_without_a_worker_that_hangs_and_it_is_replaced(stack: Stack) -> None:
    hung = workers(stack)[1]
    streams = [RawStream(stack.proxy.url, max_tokens=3_000) for _ in range(CLIENTS)]
    until(lambda: all(one.read() for one in streams), "all streams have begun")
    until(lambda: gauges(stack, "requests_in_flight") == {"": CLIENTS}, "the main process knows of them")
    os.kill(hung, signal.SIGSTOP)
    with served_by_main(stack) as client:
        named = {"x-request-id": "meanwhile"}
        assert client.post(CHAT, json=chat(), headers=named).status_code == 200
        until(
            lambda: client.get("/v1/energy/requests/meanwhile").json()["state"] == "final",
            "the others' books go on",
        )
        assert workers(stack)[1] == hung
        until(lambda: workers(stack)[1] != hung, "another worker is there")
    assert f"worker 1 (process {hung}) says nothing: it is ended" in stack.proxy.log.read_text()
    until(
        lambda: ends(stack, "lost") == sum(one.broken for one in streams) > 0,
        "what it had in flight, and nothing else, is lost",
    )
    for one in streams:
        one.socket.close()


@contextmanager
def served_by_main(stack: Stack) -> Iterator[httpx.Client]:
    """A client with a connection to a process that answers, of which there is only one."""
    while True:
        with httpx.Client(base_url=stack.proxy.url, timeout=1.0) as client:
            try:
                client.get("/health")
            except httpx.ReadTimeout:
                continue
            client.timeout = 30.0
            yield client
            return


def ends(stack: Stack, status: str) -> float:
    with served_by_main(stack) as client:
        lines = client.get("/metrics").text.splitlines()
    told = [line for line in lines if line.startswith("joulegate_requests_total") and f'"{status}"' in line]
    return sum(float(line.rpartition(" ")[2]) for line in told)


def test_changed_settings_reach_every_process(stack: Stack, clients: list[httpx.Client]) -> None:
    reload(stack, "settings reloaded: energy.in_answers", energy={"in_answers": False})
    until(
        lambda: not any("energy" in client.post(CHAT, json=chat()).json() for client in clients),
        "no process shows energy",
    )
