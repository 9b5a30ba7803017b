"""`joulegate serve` as a child process, for the demo and for tests."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
import yaml

POLL_S = 0.02
LISTENS = "joulegate listens on "


class ProxyNotReady(RuntimeError):
    """It ended or did not answer in time; the message has the end of its log."""


class ProxyProcess:
    """A context manager. `settings` go into a file in `directory`; the port defaults to a free one, which is
    kept when it is started again after `stop` or `kill`.
    """

    def __init__(
        self,
        directory: Path,
        settings: Mapping[str, Any],
        *,
        environment: Mapping[str, str] | None = None,
        ready_s: float = 60.0,
    ) -> None:
        self.directory = directory
        self.log = directory / "joulegate.log"
        self.data_dir = directory / "data"
        self.url = ""
        self._settings = {"data_dir": str(self.data_dir), "server": {"port": 0}, **settings}
        self._environment, self._ready_s = environment, ready_s
        self._process: subprocess.Popen[bytes] | None = None
        self._begin = 0
        """Where this life's part of the log begins."""

    @property
    def pid(self) -> int:
        if self._process is None:
            raise RuntimeError("the proxy does not run")
        return self._process.pid

    def start(self) -> None:
        """Start it and wait until it answers. Raises ProxyNotReady."""
        self.launch()
        self.wait_ready()

    def launch(self) -> None:
        """Start it; `wait_ready` or `kill` comes next."""
        self.directory.mkdir(parents=True, exist_ok=True)
        config = self.directory / "joulegate.yaml"
        config.write_text(yaml.safe_dump(dict(self._settings)))
        command = [sys.executable, "-m", "joulegate", "serve", "--config", str(config)]
        if self.url:
            command += ["--port", self.url.rsplit(":", 1)[1]]
        self._begin = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=self._environment
            )

    def wait_ready(self) -> None:
        """Raises ProxyNotReady, and then it is killed."""
        deadline = time.monotonic() + self._ready_s
        while not self._answers():
            if self._process is None or self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise ProxyNotReady(self.log.read_text(errors="replace")[-3000:])
            time.sleep(POLL_S)

    def _answers(self) -> bool:
        said = self.log.read_bytes()[self._begin :].decode(errors="replace").splitlines()
        line = next((line for line in said if line.startswith(LISTENS)), None)
        if line is None:
            return False
        self.url = line.removeprefix(LISTENS).split()[0]
        try:
            return httpx.get(f"{self.url}/ready", timeout=2.0).status_code == 200
        except httpx.TransportError:
            return False

    def stop(self, timeout_s: float = 45.0) -> int | None:
        """End it by SIGTERM and return its exit status; None if it did not run."""
        if self._process is None:
            return None
        self._process.terminate()
        try:
            return self._process.wait(timeout_s)
        finally:
            self.kill()

    def kill(self) -> None:
        """End it by SIGKILL, as a crash would."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self._process = None

    def __enter__(self) -> ProxyProcess:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
