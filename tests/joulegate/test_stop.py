"""A stop that comes at a bad moment."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

DEADLINE_S = 60


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_as_soon_as_it_says_that_it_listens_is_heard(tmp_path: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-m", "joulegate", "serve", "--no-meter", "--port", "0"]
    command += ["--backend", "http://127.0.0.1:9", "--data-dir", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            while "listens on" not in process.stdout.readline():
                assert process.poll() is None
            process.send_signal(number)
            assert process.wait(DEADLINE_S) == -number
        finally:
            process.kill()
