"""A real vLLM on the CPU and the proxy in front of it, once for all tests of a kind.

vLLM computes on the CPU, so the joules are those of a simulated GPU that idles: enough to see that every
request gets its share, no statement about vLLM.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from simulator.gpu.board import H100, Board
from simulator.gpu.library import build
from tests.engines.vllm_server import EMBEDDING_FLAGS, TOOL_FLAGS, VllmServer
from tests.parity.pair import Pair
from tests.parity.proxy_process import ProxyProcess

# Usage on every chunk whether asked for or not, and a comment for a stream that says nothing for a second.
FORCED_FLAGS = ("--enable-force-include-usage", "--sse-keep-alive-interval", "1")


@pytest.fixture(scope="package")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with _behind_proxy(tmp_path_factory.mktemp("plain"), TOOL_FLAGS) as (_, pair):
        yield pair


@pytest.fixture(scope="module")
def forced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[VllmServer, Pair]]:
    with _behind_proxy(tmp_path_factory.mktemp("forced"), FORCED_FLAGS) as both:
        yield both


@pytest.fixture(scope="module")
def pooling(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with _behind_proxy(tmp_path_factory.mktemp("pooling"), EMBEDDING_FLAGS) as (_, pair):
        yield pair


@contextmanager
def _behind_proxy(directory: Path, flags: Sequence[str]) -> Iterator[tuple[VllmServer, Pair]]:
    Board.create(directory / "board", [H100]).close()
    library = build(directory)
    with (
        VllmServer(directory / "vllm.log", flags) as vllm,
        ProxyProcess(directory / "proxy", vllm.url, library, [H100.uuid]) as proxy,
    ):
        yield vllm, Pair(vllm.url, proxy.url, vllm.model, serves_embeddings=flags is EMBEDDING_FLAGS)
