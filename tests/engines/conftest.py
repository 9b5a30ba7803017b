"""A real vLLM on the CPU and the proxy in front of it, once for all tests here.

vLLM computes on the CPU, so the joules are those of a simulated GPU that idles: enough to see that every
request gets its share, no statement about vLLM.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from simulator.gpu.board import H100, Board
from simulator.gpu.library import build
from tests.engines.vllm_server import VllmServer
from tests.parity.pair import Pair
from tests.parity.proxy_process import ProxyProcess


@pytest.fixture(scope="session")
def vllm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmServer]:
    with VllmServer(tmp_path_factory.mktemp("vllm") / "vllm.log") as server:
        yield server


@pytest.fixture(scope="session")
def proxied_url(vllm: VllmServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    gpu, directory = tmp_path_factory.mktemp("gpu"), tmp_path_factory.mktemp("proxy")
    Board.create(gpu / "board", [H100]).close()
    with ProxyProcess(directory, vllm.url, build(gpu), [H100.uuid]) as proxy:
        yield proxy.url


@pytest.fixture(scope="session")
def pair(vllm: VllmServer, proxied_url: str) -> Pair:
    return Pair(vllm.url, proxied_url, vllm.model)
