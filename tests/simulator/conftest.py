"""A simulated engine that the server tests share: 4 sequences at a time, KV cache of 2048 tokens."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from simulator.process import SimulatedEngine

OPTIONS = [
    "--max-num-seqs",
    "4",
    "--max-num-batched-tokens",
    "256",
    "--max-model-len",
    "2048",
    "--kv-blocks",
    "128",
]


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimulatedEngine]:
    directory: Path = tmp_path_factory.mktemp("engine")
    with SimulatedEngine(directory, allow_faults=True, options=OPTIONS, library=False) as running:
        yield running


@pytest.fixture
def client(engine: SimulatedEngine) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=engine.url, timeout=30.0) as one:
        yield one


def eventually(condition: Callable[[], Any], within_s: float = 20.0) -> Any:
    """What `condition` gives once it is true. Fails when it stays false."""
    deadline = time.monotonic() + within_s
    while not (found := condition()):
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.01)
    return found


def the_account(client: httpx.Client, request_id: str) -> dict[str, Any]:
    """The one account with this id; empty while there is none."""
    found = client.get("/simulator/truth", params={"request_id": request_id}).json()["data"]
    assert len(found) <= 1
    return found[0] if found else {}
