"""The simulated engine on a simulated GPU, and the proxy in front of it, once for all tests here."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from simulator.gpu.board import H100
from simulator.process import SimulatedEngine
from tests.parity.lifecycle import SLOTS
from tests.parity.pair import Pair
from tests.parity.proxy_process import ProxyProcess

OPTIONS = ["--served-model-name", "simulated", "--max-num-seqs", str(SLOTS), "--max-model-len", "16384"]


@pytest.fixture(scope="session")
def proxied_url(engine: SimulatedEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    assert engine.library is not None
    directory = tmp_path_factory.mktemp("proxy")
    with ProxyProcess(directory, engine.url, engine.library, [H100.uuid]) as proxy:
        yield proxy.url


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimulatedEngine]:
    with SimulatedEngine(tmp_path_factory.mktemp("engine"), model="tiny", options=OPTIONS) as running:
        yield running


@pytest.fixture(scope="session")
def pair(engine: SimulatedEngine, proxied_url: str) -> Pair:
    return Pair(engine.url, proxied_url, "simulated", serves_responses=False, serves_embeddings=True)
