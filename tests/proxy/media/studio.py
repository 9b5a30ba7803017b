"""A proxy in front of diffusion servers that work on a simulated GPU, as tests see it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openai import OpenAI

from joulegate.process import ProxyProcess
from simulator.gpu.board import H100, Board
from simulator.gpu.library import build
from tests.dialects.diffusion import DiffusionServer, Kind
from tests.proxy.stack import Stack, until

BUSY_W = 600
STEP_S = 0.05
QUIET_S = 4.5
"""So long nothing is asked at first, for the idle power to be learnt: from eight intervals (settle.py)."""


class Drawing:
    """What a server at work draws, on the first GPU of a board."""

    def __init__(self, board: Board) -> None:
        self._board = board

    def __call__(self, seconds: float) -> None:
        now_us, last_us = time.monotonic_ns() // 1000, self._board.last(0)[0]
        begin_us = max(now_us, last_us)
        energy_uj = self._board.energy_uj(0, begin_us)
        self._board.extend(0, begin_us, energy_uj)
        length_us = round(seconds * 1e6)
        self._board.extend(0, begin_us + length_us, energy_uj + BUSY_W * length_us)


@dataclass
class Studio:
    server: DiffusionServer
    proxy: ProxyProcess
    stack: Stack
    openai: OpenAI

    def record(self, request_id: str) -> dict[str, Any]:
        return self.stack.record(request_id)


@contextmanager
def studio(
    directory: Path, kind: Kind, *, step_s: float = STEP_S, quiet: bool = True, **settings: Any
) -> Iterator[Studio]:
    """`quiet`: nothing is asked before the idle power is learnt."""
    with ExitStack() as stack:
        board = Board.create(directory / "board", [H100])
        stack.callback(board.close)
        server = stack.enter_context(DiffusionServer(kind, Drawing(board), step_s=step_s))
        backend = {"id": kind, "url": server.url, **settings.pop("backend", {})}
        metered = {"backends": [backend], "meter": {"library": str(build(directory))}, **settings}
        proxy = stack.enter_context(ProxyProcess(directory / "proxy", metered))
        talk = stack.enter_context(Stack(proxy))
        if quiet:
            idle_learnt(talk)
        client = stack.enter_context(OpenAI(base_url=f"{proxy.url}/v1", api_key="none", max_retries=0))
        yield Studio(server, proxy, talk, client)


def idle_learnt(stack: Stack) -> None:
    """Wait until the books have enough quiet time."""
    until(lambda: (stack.books()["covered_seconds"] >= QUIET_S) or None, "quiet time in the books")


def fields(steps: int, request_id: str) -> dict[str, Any]:
    """A video job, as OpenAI's client is told of it."""
    return {
        "model": "tiny-omni",
        "prompt": "a joule rolls down a hill",
        "extra_body": {"size": "64x64", "num_frames": 16, "fps": 8, "num_inference_steps": steps},
        "extra_headers": {"x-request-id": request_id},
    }
