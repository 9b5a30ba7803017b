"""The engine as a process: faults on demand, crashes, restarts, and a command line that refuses nonsense."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from simulator.gpu.board import Board, monotonic_us
from simulator.process import EngineNotReady, SimulatedEngine
from tests.simulator.conftest import eventually

FIELDS = {"prompt": "the time", "max_tokens": 20, "ignore_eos": True, "stream": True}


def order(client: httpx.Client, kind: str, count: int = 1) -> None:
    assert client.post("/simulator/fault", json={"kind": kind, "count": count}).status_code == 200


def works(client: httpx.Client) -> bool:
    return client.post("/v1/completions", json=FIELDS).text.endswith("data: [DONE]\n\n")


def broken_stream(client: httpx.Client) -> str:
    """What comes of a stream that must break."""
    received: list[str] = []
    with client.stream("POST", "/v1/completions", json=FIELDS) as answer:
        assert answer.status_code == 200
        with pytest.raises(httpx.RemoteProtocolError):
            received.extend(answer.iter_text())
    return "".join(received)


def test_a_stream_dies_after_three_pieces(client: httpx.Client) -> None:
    order(client, "die_midstream")
    received = broken_stream(client)
    assert received.startswith("data: {")
    assert "[DONE]" not in received
    assert works(client)


def test_a_stream_dies_in_the_middle_of_a_chunk(client: httpx.Client) -> None:
    order(client, "half_chunk")
    received = broken_stream(client)
    assert not received.endswith("\n\n")
    assert works(client)


def test_an_answer_in_one_piece_is_cut_short(client: httpx.Client) -> None:
    order(client, "die_midstream")
    with pytest.raises(httpx.RemoteProtocolError):
        client.post("/v1/completions", json={**FIELDS, "stream": False})
    assert works(client)


def test_an_answer_is_garbage(client: httpx.Client) -> None:
    order(client, "garbage", count=2)
    for _ in range(2):
        with pytest.raises(httpx.RemoteProtocolError):
            client.post("/v1/completions", json=FIELDS)
    assert works(client)


def test_an_answer_is_no_json(client: httpx.Client) -> None:
    order(client, "invalid_json")
    answer = client.post("/v1/completions", json=FIELDS)
    assert answer.headers["content-type"] == "application/json"
    with pytest.raises(ValueError, match="Unterminated"):
        answer.json()
    assert works(client)


def test_an_answer_is_an_internal_error(client: httpx.Client) -> None:
    order(client, "http500")
    answer = client.post("/v1/completions", json=FIELDS)
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, 500)
    assert works(client)


def test_an_answer_never_comes(client: httpx.Client) -> None:
    order(client, "hang")
    with pytest.raises(httpx.ReadTimeout):
        client.post("/v1/completions", json=FIELDS, timeout=0.5)
    assert works(client)


def test_an_unknown_fault_is_refused(client: httpx.Client) -> None:
    assert client.post("/simulator/fault", json={"kind": "earthquake"}).status_code == 400


def test_a_killed_engine_comes_back_on_its_board_and_port(tmp_path: Path) -> None:
    with SimulatedEngine(tmp_path, options=["--no-metrics-per-request", "--log-iterations"]) as engine:
        url = engine.url
        body = httpx.post(f"{url}/v1/completions", json={**FIELDS, "stream": False}).json()
        assert body["metrics"] is None
        assert httpx.post(f"{url}/simulator/fault", json={"kind": "hang"}).status_code == 404
        assert "Iteration(0): 1 context requests, 3 context tokens, 0 generation" in engine.log.read_text()
        board = Board.attach(engine.board)
        before_uj = board.energy_uj(0, monotonic_us())
        engine.kill()
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{url}/health")
        engine.start()
        assert engine.url == url
        assert httpx.get(f"{url}/simulator/truth").json()["curve_uj"] == 0
        httpx.post(f"{url}/v1/completions", json=FIELDS)
        assert board.energy_uj(0, monotonic_us()) > before_uj
        assert engine.library is not None
        assert engine.library.exists()


ORPHAN = """
import os, pathlib, signal, sys
from simulator.process import SimulatedEngine
engine = SimulatedEngine(pathlib.Path(sys.argv[1]), library=False)
engine.start()
print(engine.url, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_an_engine_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    parent = subprocess.run([sys.executable, "-c", ORPHAN, str(tmp_path)], capture_output=True, text=True)
    assert parent.returncode == -signal.SIGKILL
    url = parent.stdout.strip()
    assert url.startswith("http://127.0.0.1:")

    def gone() -> bool:
        try:
            httpx.get(f"{url}/health", timeout=2.0)
        except httpx.TransportError:
            return True
        return False

    eventually(gone)


@pytest.mark.parametrize(
    ("model", "options", "reason"),
    [
        ("llama-3.1-70b", [], "does not fit into the memory"),
        ("tiny", ["--max-model-len", "2048", "--kv-blocks", "10"], "would not fit into 10 KV blocks"),
    ],
)
def test_an_impossible_engine_says_why_it_does_not_start(
    tmp_path: Path, model: str, options: list[str], reason: str
) -> None:
    engine = SimulatedEngine(tmp_path, model=model, options=options, library=False)
    with pytest.raises(EngineNotReady, match=reason):
        engine.start()
