"""`joulegate replay` of a trace: what it prints."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from joulegate.cli import main
from tests.accounting.recorded import backend, energy, request, write

LAST = ["measured_joules", "attributed_joules", "idle_joules", "unmeasured_joules", "unobserved_joules"]


def test_a_line_per_request_and_the_books_last(tmp_path: Path) -> None:
    lines = [backend(), backend("dark", ["X"]), energy("G", 25, (10, 700), (14, 100))]
    lines += [request("r", 10, 14), request("null", 11, 12, backend="dark", tenant=None)]
    path = write(tmp_path / "t.jsonl.gz", *lines)
    done = CliRunner().invoke(main, ["replay", str(path)])
    assert done.exit_code == 0, done.output
    *requests, books = [json.loads(line) for line in done.output.splitlines()]
    by_id = {line["id"]: line for line in requests}
    assert list(by_id["r"])[:2] == ["id", "joules"]
    assert by_id["r"]["joules"] == pytest.approx(2800, abs=1)
    parts = by_id["r"]["prefill_joules"] + by_id["r"]["decode_joules"]
    assert by_id["r"]["joules"] == pytest.approx(parts, abs=1e-9)
    assert (by_id["r"]["status"], by_id["r"]["tenant"]) == ("ok", "t")
    assert (by_id["null"]["joules"], by_id["null"]["tenant"]) == (None, None)
    assert list(books) == [*LAST, "balanced"]
    assert books["balanced"] is True
    assert books["attributed_joules"] == by_id["r"]["joules"]
    assert books["measured_joules"] == pytest.approx(sum(books[name] for name in LAST[1:]), abs=1e-9)


def test_nothing_measured_is_null(tmp_path: Path) -> None:
    done = CliRunner().invoke(
        main, ["replay", str(write(tmp_path / "t.jsonl", backend(), request("r", 1, 2)))]
    )
    assert json.loads(done.output.splitlines()[-1])["measured_joules"] is None


def test_bad_input_is_told_in_a_line(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", backend(), {"type": "energy"})
    done = CliRunner().invoke(main, ["replay", str(path)])
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == f"Error: {path}:2: Object missing required field `gpu`\n"
