"""A node with a meter: `joulegate meter` as a process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx

from tests.accounting.meters.watching import wait_until


class Node:
    """`joulegate meter` as a process that sees the GPUs of this NVML library."""

    def __init__(self, library: Path, token: str | None = None) -> None:
        self._library, self._token = library, token
        self._port = "0"
        self.url = ""
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "joulegate", "meter", "--port", self._port]
        command += ["--library", str(self._library), "--node", "node7"]
        environment = dict(os.environ)
        if self._token is not None:
            command += ["--token-env", "TEST_METER_TOKEN"]
            environment["TEST_METER_TOKEN"] = self._token
        self._process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, text=True
        )
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        line = self._process.stdout.readline()
        assert "listens on " in line, self._process.stderr.read()
        self.url = line.split()[-1]
        self._port = self.url.rsplit(":", 1)[1]
        wait_until(self._answers, "the node's meter")

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health").status_code == 200
        except httpx.TransportError:
            return False

    def kill(self) -> None:
        self._process.kill()
        self._wait()

    def stop(self) -> tuple[int, str]:
        """How it ended, and what it said on the standard error."""
        self._process.send_signal(signal.SIGTERM)
        return self._wait()

    def _wait(self) -> tuple[int, str]:
        _, error = self._process.communicate(timeout=30)
        return self._process.returncode, error

    def close(self) -> None:
        if self._process.poll() is None:
            self.kill()
