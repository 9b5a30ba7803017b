"""`joulegate demo`, the first thing a stranger runs."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from joulegate.demo.report import COLUMNS
from joulegate.demo.tables import Column, fitting, table


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
    assert "With 12 requests the work model has only begun to learn" in done.stdout


@pytest.mark.parametrize("width", [50, 60, 80, 100])
def test_no_figure_is_cut_for_a_narrow_terminal_and_what_has_no_room_is_named(width: int) -> None:
    columns = [Column("what", text=True), Column("total J"), Column("of it J", 1), Column("much more J", 2)]
    rows = [["a [red]name[/red] of some length", "1,234,567.8", "12.3", "9" * 30], ["b", "0.1", "-", "1"]]
    out = io.StringIO()
    Console(file=out, width=width).print(table("A title", columns, rows, width))
    lines = out.getvalue().splitlines()
    assert all(len(line.rstrip()) <= width for line in lines)
    (first,) = (line.split() for line in lines if "length" in line)
    hidden = {column.name for column in columns if column.name in lines[-1] and "No room" in lines[-1]}
    shown = [cell for column, cell in zip(columns, rows[0], strict=True) if column.name not in hidden]
    assert first == " ".join(shown).split()
    assert "…" not in out.getvalue()
    assert hidden == ({"of it J", "much more J"} if width < 54 else {"much more J"} if width < 87 else set())


def test_the_demos_own_columns_fit_80_characters_without_their_joules_being_left_out() -> None:
    row = [
        "0123abcd",
        "search",
        "chat, streamed",
        "client_error",
        "12,345",
        "400",
        "12.34",
        "123.4",
        "1234.5",
    ]
    row += ["1234.5", "123.4", "12.34", "1234.5"]
    names = [COLUMNS[place].name for place in fitting(COLUMNS, [row], 80)]
    assert {"kind", "prefill J", "decode J", "total J", "±", "true J"} <= set(names)


def _wide() -> dict[str, str]:
    """All columns of the demo; a pipe has no width of its own."""
    return {**os.environ, "COLUMNS": "250", "NO_COLOR": "1"}
