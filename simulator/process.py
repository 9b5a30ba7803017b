"""Start a simulated engine as a process of its own, from tests and from the demo.

    with SimulatedEngine(directory, model="tiny") as engine:
        httpx.get(engine.url + "/health")

The directory holds the board, the NVML library that shows it (unless `library` is false) and the log.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO

import httpx

from simulator.gpu.library import build

READY = "simulator ready on "
"""Beginning of the line that is printed when requests are served; the address follows."""

POLL_S = 0.02
STOP_S = 10.0


class EngineNotReady(RuntimeError):
    """The engine ended or did not answer in time; the message has the end of its log."""


class SimulatedEngine:
    """A context manager around `python -m simulator serve`. After a `stop` or `kill`, `start` brings it back.

    `board` defaults to the file `board` in `directory`; one that exists is attached to, so that several
    engines can share one (give each its `first_gpu`). The port of the first start is kept for later ones.
    `options` are passed on as they are, such as `["--max-num-seqs", "4"]`. `ready_s` is in seconds.
    """

    def __init__(
        self,
        directory: Path,
        *,
        model: str = "tiny",
        gpu: str = "h100",
        gpus: int = 1,
        first_gpu: int = 0,
        board: Path | None = None,
        port: int = 0,
        allow_faults: bool = False,
        options: Sequence[str] = (),
        library: bool = True,
        ready_s: float = 60.0,
    ) -> None:
        self.directory = directory
        self.board = board or directory / "board"
        self.library: Path | None = None
        self.url = ""
        self.log = directory / f"engine-{first_gpu}.log"
        self._port = port
        self._build = library
        self._ready_s = ready_s
        self._process: subprocess.Popen[bytes] | None = None
        self._arguments = ["--board", str(self.board), "--model", model, "--gpu", gpu, "--gpus", str(gpus)]
        self._arguments += ["--first-gpu", str(first_gpu), *options]
        if allow_faults:
            self._arguments.append("--allow-faults")

    @property
    def nvml_environment(self) -> dict[str, str]:
        """Variables that make a new process find the simulated NVML library and this board."""
        return {"LD_LIBRARY_PATH": str(self.directory), "JOULEGATE_SIM_BOARD": str(self.board)}

    @property
    def pid(self) -> int:
        """Process id. Raises RuntimeError when it does not run."""
        if self._process is None:
            raise RuntimeError("the engine does not run")
        return self._process.pid

    def start(self) -> None:
        """Start and wait until it answers. Raises EngineNotReady."""
        self.directory.mkdir(parents=True, exist_ok=True)
        if self._build and self.library is None:
            self.library = build(self.directory)
        command = [sys.executable, "-m", "simulator", "serve", "--port", str(self._port), *self._arguments]
        command.append("--until-stdin-ends")
        if not self.board.exists():
            command.append("--create-board")
        with self.log.open("wb") as log:
            self._process = self._spawn(command, log)
        deadline = time.monotonic() + self._ready_s
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise EngineNotReady(f"{' '.join(command)}\n{self.log.read_text(errors='replace')[-2000:]}")
            time.sleep(POLL_S)

    def _spawn(self, command: list[str], log: IO[bytes]) -> subprocess.Popen[bytes]:
        # The pipe closes with this process, however it ends: no engine is left behind.
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT)

    def _answers(self) -> bool:
        lines = self.log.read_text(errors="replace").splitlines()
        address = next((line.removeprefix(READY) for line in lines if line.startswith(READY)), None)
        if address is None:
            return False
        self.url = address
        self._port = int(address.rsplit(":", 1)[1])
        try:
            return httpx.get(f"{address}/health", timeout=2.0).status_code == 200
        except httpx.TransportError:
            return False

    def stop(self) -> None:
        """End it by SIGTERM, after `STOP_S` seconds by SIGKILL. Nothing happens if it does not run."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()
            return
        self._forget()

    def kill(self) -> None:
        """End it by SIGKILL, as a crash would."""
        if self._process is None:
            return
        if self._process.poll() is None:
            os.kill(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._forget()

    def _forget(self) -> None:
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
        self._process = None

    def __enter__(self) -> SimulatedEngine:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
