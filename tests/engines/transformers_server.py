"""Runs `transformers serve` on the CPU for tests: on 127.0.0.1, its log in a file, ended by its pid."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Final

from tests.engines.vllm_server import NotInstalled, VllmServer, tiny_model

INSTALLER: Final = Path(__file__).with_name("install-transformers-serve")
# Paged attention without a GPU: its own choices need one, or are many times slower here.
FLAGS: Final = (
    *(
        "--continuous-batching",
        "--cb-block-size",
        "32",
        "--cb-num-blocks",
        "64",
        "--cb-max-batch-tokens",
        "256",
    ),
    *("--attn-implementation", "sdpa", "--no-cb-use-cuda-graph", "--device", "cpu"),
)


def environment() -> Path:
    """The directory that install-transformers-serve has made. Raises NotInstalled."""
    answer = subprocess.run([INSTALLER, "--path"], check=True, capture_output=True, text=True)
    directory = Path(answer.stdout.strip())
    if not (directory / ".complete").exists():
        raise NotInstalled(f"transformers serve is not in {directory}: run {INSTALLER}")
    return directory


class TransformersServer(VllmServer):
    """A running `transformers serve`, pinned to the tiny model; use as a context manager."""

    def __init__(self, log: Path) -> None:
        # It lists the models of its cache, and answers 500 where there is no such directory.
        cache = log.parent / "hub"
        cache.mkdir()
        super().__init__(log, (), {"HF_HUB_CACHE": str(cache)}, engine_times=False)
        self.served = str(tiny_model())
        """The name of the model in requests: its directory."""

    def command(self) -> list[str]:
        program = str(environment() / "bin" / "transformers")
        return [program, "serve", self.served, "--host", "127.0.0.1", "--port", str(self.port), *FLAGS]
