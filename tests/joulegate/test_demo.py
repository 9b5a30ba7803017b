"""`joulegate demo`, the first thing a stranger runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path


def test_the_demo_prints_joules_per_request_and_balanced_books(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "joulegate",
        "demo",
        "--requests",
        "12",
        "--keep",
        str(tmp_path / "kept"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=_wide(), cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    for word in ("prefill J", "J/token", "balanced", "By tenant", "equal"):
        assert word in done.stdout
    assert "NO" not in done.stdout
    assert "differ" not in done.stdout
    assert sum("client_error" in line for line in done.stdout.splitlines()) == 1  # the unknown model
    replay = subprocess.run(
        [sys.executable, "-m", "joulegate", "replay", str(tmp_path / "kept/joulegate/data")],
        capture_output=True,
        check=True,
    )
    books = json.loads(replay.stdout.splitlines()[-1])["books"]
    assert (books["balanced"], books["requests"]) == (True, 12)
    assert f"{books['requests_uj']:,}" in done.stdout


def _wide() -> dict[str, str]:
    """rich cuts tables to the width of the terminal; a pipe has none."""
    return {**os.environ, "COLUMNS": "250", "NO_COLOR": "1"}
