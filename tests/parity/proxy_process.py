"""Runs `joulegate serve` for tests: configured by a file, on a free port of 127.0.0.1, ended by its pid."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import httpx

START_DEADLINE_S: Final = 60.0
STOP_DEADLINE_S: Final = 20.0
LISTENS: Final = re.compile(r"^joulegate listens on (http://\S+)", re.MULTILINE)


class ProxyProcess:
    """The proxy in front of one engine; use as a context manager.

    `directory` takes the configuration, the data and the log. `library` is the NVML library that shows the
    GPUs with the UUIDs `gpus`.
    """

    def __init__(self, directory: Path, engine_url: str, library: Path, gpus: list[str]) -> None:
        self.url = ""
        self.log = directory / "proxy.log"
        self._config = directory / "joulegate.yaml"
        directory.mkdir(parents=True, exist_ok=True)
        settings = {
            "server": {"host": "127.0.0.1", "port": 0},
            "backends": [{"id": "engine", "url": engine_url, "gpus": gpus}],
            "meter": {"library": str(library)},
            "data_dir": str(directory / "data"),
        }
        self._config.write_text(json.dumps(settings))  # JSON is YAML
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "joulegate", "serve", "--config", str(self._config)],
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            self._wait_until_ready(self._process)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Ask it to end; where it does not, kill it."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_DEADLINE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + START_DEADLINE_S
        while not self._is_ready():
            words = self.log.read_text(errors="replace")[-3000:]
            if process.poll() is not None:
                raise RuntimeError(f"joulegate ended with {process.returncode}:\n{words}")
            if time.monotonic() > deadline:
                raise TimeoutError(f"joulegate was not ready after {START_DEADLINE_S:.0f} s:\n{words}")
            time.sleep(0.05)

    def _is_ready(self) -> bool:
        said = LISTENS.search(self.log.read_text(errors="replace"))
        if said is None:
            return False
        self.url = said[1]
        try:
            answer = httpx.get(f"{self.url}/ready", timeout=5)
        except httpx.TransportError:
            return False  # not listening yet
        return answer.status_code == 200 and not answer.json()["warnings"]
