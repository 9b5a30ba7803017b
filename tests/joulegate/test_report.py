"""report, invoice and export on a real store, as a user calls them."""

from __future__ import annotations

import csv
import io
import json
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from accounting.billing.source import month_us
from accounting.billing.tariff import DAY_US, HOUR_US
from accounting.records import Output
from accounting.store.engine import connect, migrate
from accounting.store.writer import StoreWriter
from joulegate.cli import main
from joulegate.reporting.render import FORMATS
from tests.accounting.store.examples import book, correction, record

SEPTEMBER_US = month_us("2026-09")[0]
NASTY = "evil|<script>alert(1)</script> [bold]"
SETTINGS = """
backends: [{id: a, url: "http://127.0.0.1:9"}]
billing:
  currency: EUR
  idle: by_use
  tariffs: [{name: standard, price_per_kwh: PRICE, projects: ["*"]}]
carbon: {location_g_per_kwh: 400}
"""


def outputs() -> list[Output]:
    found: list[Output] = []
    for number in range(1, 31):
        at_us = SEPTEMBER_US + number % 3 * DAY_US + number * HOUR_US // 2
        found.append(
            record(
                number,
                tenant=("lab", "web", None)[number % 3],
                model=NASTY if number == 5 else ("llama", "qwen")[number % 2],
                api_key=f"key-{number % 2}",
                started_us=at_us - 1,
                finished_us=at_us,
                energy_uj=None if number == 7 else 360_000_000_000 + number,
                prefill_uj=None if number == 7 else number,
                decode_uj=None if number == 7 else 360_000_000_000,
                shares=[],
            )
        )
    found += [
        book(1, gpu, t0_us=SEPTEMBER_US + n * HOUR_US, t1_us=SEPTEMBER_US + (n + 1) * HOUR_US)
        for n in range(72)
        for gpu in ("GPU-a", "host:node")
    ]
    return found


def store(directory: Path, found: list[Output]) -> None:
    engine = connect(f"sqlite:///{directory}/joulegate.db")
    migrate(engine)
    writer = StoreWriter(engine, "journal-1")
    writer.put(found, segment=0)
    assert writer.close(timeout_s=20)
    engine.dispose()


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("original")
    store(path, outputs())
    return path


@pytest.fixture
def directory(original: Path, tmp_path: Path) -> Path:
    shutil.copytree(original, tmp_path, dirs_exist_ok=True)
    write_settings(tmp_path)
    return tmp_path


def write_settings(directory: Path, price: str = "0.30") -> None:
    (directory / "joulegate.yaml").write_text(f"data_dir: {directory}{SETTINGS.replace('PRICE', price)}")


def invoke(directory: Path, *words: str, width: int = 80) -> Result:
    config = ("--config", str(directory / "joulegate.yaml"))
    return CliRunner(env={"COLUMNS": str(width)}).invoke(main, [*words, *config])


def printed(directory: Path, *words: str, width: int = 80) -> str:
    done = invoke(directory, *words, width=width)
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.mark.parametrize("width", [80, 150])
def test_a_report_fits_the_terminal_and_cuts_no_figure(directory: Path, width: int) -> None:
    text = printed(directory, "report", "--month", "2026-09", "--by", "project", "--by", "model", width=width)
    assert max(len(line) for line in text.splitlines()) <= width
    assert "…" not in text
    for figure in (
        "10,440.000",
        "(none)",
        "Costs",
        "Where the GPUs' energy went",
        "Where the hosts' energy went",
    ):
        assert figure in text
    assert "1 request was not measured" in text
    assert ("No room for" in text) == (width == 80)


def test_csv_and_json_have_every_column_and_every_digit(directory: Path) -> None:
    words = ("report", "--month", "2026-09", "--by", "project", "--by", "day")
    rows = list(csv.DictReader(io.StringIO(printed(directory, *words, "--format", "csv"))))
    found: dict[str, Any] = json.loads(printed(directory, *words, "--format", "json"))
    assert len(rows) == len(found["usage"]) == 3
    total_uj = sum(360_000_000_000 + n for n in range(1, 31) if n != 7)
    assert sum(Decimal(row["energy_joules"]) for row in rows) * 10**6 == total_uj
    assert Decimal(found["usage_total"]["energy_joules"]) * 10**6 == total_uj
    assert sum(int(row["requests"]) for row in rows) == 30
    assert list(rows[0]) == list(found["usage"][0])
    # Who named no project has no price, which is not 0.
    assert {row["cost"] == "" for row in rows if row["project"] == "(none)"} == {True}
    assert {row["carbon_grams_market"] for row in rows} == {""}
    idle = next(row for row in found["costs"] if row["what"] == "Idle energy")
    assert Decimal(idle["energy_joules"]) + 0 == Decimal("0.0018")  # 72 hours of 25 uJ


def test_names_from_clients_cannot_break_out_of_a_page(directory: Path) -> None:
    html = printed(directory, "report", "--month", "2026-09", "--format", "html")
    assert "<script" not in html
    assert "evil|&lt;script&gt;" in html
    assert "src=" not in html
    assert "http" not in html
    markdown = printed(directory, "report", "--month", "2026-09", "--format", "markdown")
    (line,) = [line for line in markdown.splitlines() if "evil" in line]
    assert "<script" not in line
    heads = [len(row.replace("\\|", "").split("|")) for row in markdown.splitlines() if row.startswith("| ")]
    assert line.replace("\\|", "").count("|") + 1 in heads
    assert "[bold]" in printed(directory, "report", "--month", "2026-09", width=150)


def test_a_time_without_requests_says_so(directory: Path) -> None:
    assert "No requests in this time." in printed(directory, "report", "--month", "2025-01")


def test_an_invoice_s_lines_sum_to_its_total(directory: Path) -> None:
    found = json.loads(
        printed(directory, "invoice", "--month", "2026-09", "--project", "web", "--format", "json")
    )
    amounts = [Decimal(line["amount"]) for line in found["lines"]]
    assert sum(amounts) == Decimal(found["lines_total"]["amount"]) == Decimal("0.27")
    assert (found["State"], found["For"]) == ("draft", "web")
    # 0.9 kWh and a trifle at 400 g.
    assert [note for note in found["notes"] if "Carbon" in note] == ["Carbon, location-based: 360.0 g CO2e."]
    nobody = json.loads(
        printed(directory, "invoice", "--month", "2026-09", "--project", "", "--format", "json")
    )
    assert {line["amount"] for line in nobody["lines"]} == {None}
    assert any("No tariff fits" in note for note in nobody["notes"])


def test_a_closed_invoice_is_the_same_bytes_whatever_happens(directory: Path) -> None:
    def written(width: int = 80) -> dict[str, str]:
        words = ("invoice", "--month", "2026-09", "--project", "web", "--format")
        return {form: printed(directory, *words, form, width=width) for form in ("text", *FORMATS)}

    draft = written()
    assert invoke(directory, "invoice", "--month", "2026-09", "--close").exit_code == 0
    final = written()
    assert {form for form in final if final[form] == draft[form]} == {"csv"}
    write_settings(directory, "9.99")
    late = record(99, tenant="web", started_us=SEPTEMBER_US, finished_us=SEPTEMBER_US, shares=[])
    store(directory, [late, correction(1, shares=[])])
    assert written(width=150) == final
    october = json.loads(
        printed(directory, "invoice", "--month", "2026-10", "--project", "web", "--format", "json")
    )
    assert any(line["item"].startswith("Adjustment of 2026-09: GPU energy") for line in october["lines"])


def test_csv_jsonl_and_parquet_hold_the_same_requests(directory: Path) -> None:
    for form in ("csv", "jsonl", "parquet"):
        printed(
            directory, "export", "requests", "--month", "2026-09", "--output", str(directory / f"r.{form}")
        )
    with (directory / "r.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    lines = [json.loads(line) for line in (directory / "r.jsonl").read_text().splitlines()]
    table = pq.read_table(directory / "r.parquet").to_pylist()
    assert len(rows) == len(lines) == len(table) == 30
    for row, line, entry in zip(rows, lines, table, strict=True):
        assert (row["uid"], row["model"]) == (line["uid"], line["model"]) == (entry["uid"], entry["model"])
        energy = int(row["energy_uj"]) if row["energy_uj"] else None
        assert energy == line["energy_uj"] == entry["energy_uj"]
        assert row["finished_at"] == line["finished_at"]
        assert datetime.fromisoformat(row["finished_at"]) == entry["finished_at"]
        assert set(row) == set(line) == set(entry)
    assert [entry["finished_at"] for entry in table] == sorted(
        (e["finished_at"] for e in table), reverse=True
    )


def test_an_export_can_be_of_one_project_or_model(directory: Path) -> None:
    words = ("export", "requests", "--month", "2026-09", "--format", "jsonl")
    web = [json.loads(line) for line in printed(directory, *words, "--project", "web").splitlines()]
    assert [row["tenant"] for row in web] == ["web"] * 10
    qwen = [json.loads(line) for line in printed(directory, *words, "--model", "qwen").splitlines()]
    assert {row["model"] for row in qwen} == {"qwen"}


def test_books_are_exported_by_the_hour(directory: Path) -> None:
    text = printed(directory, "export", "books", "--from", "2026-09-01", "--to", "2026-09-30")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert len(rows) == 144
    assert {row["boundary"] for row in rows} == {"gpu", "host"}
    assert rows[0]["hour"] == "2026-09-01T00:00:00Z"
    assert all(
        int(row["measured_uj"])
        == sum(int(row[name]) for name in ("requests_uj", "idle_uj", "unobserved_uj", "unmeasured_uj"))
        for row in rows
    )


def test_focus_in_parquet_is_focus_in_csv(directory: Path) -> None:
    for form in ("csv", "parquet"):
        printed(directory, "export", "focus", "--month", "2026-09", "--output", str(directory / f"f.{form}"))
    with (directory / "f.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    table = pq.read_table(directory / "f.parquet").to_pylist()
    assert len(rows) == len(table) > 5
    for row, entry in zip(rows, table, strict=True):
        assert list(row) == list(entry)
        for name, value in entry.items():
            if value is None:
                assert row[name] == ""
            elif isinstance(value, Decimal):
                assert Decimal(row[name]) == value
            elif isinstance(value, datetime):
                assert row[name] == value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            else:
                assert row[name] == value


def test_a_pipe_that_is_closed_early_is_no_error(directory: Path) -> None:
    command = [sys.executable, "-m", "joulegate", "export", "requests", "--month", "2026-09"]
    with subprocess.Popen(
        [*command, "--config", str(directory / "joulegate.yaml")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("report", "--month", "2026-13"), "2026-13 is no time: write a day as 2026-11-23, a month"),
        (("report", "--from", "2026-02-30"), "2026-02-30 is no time"),
        (("report", "--from", "2026-09-02", "--to", "2026-09-01"), "--from is later than --to"),
        (("report", "--month", "2026-09", "--to", "2026-09-01"), "give --month, or --from and --to"),
        (("report", "--by", "colour"), "'colour' is not one of"),
        (("invoice", "--month", "2026-09", "--project", "nobody"), "it has those of lab, web"),
        (("invoice", "--month", "2999-01", "--close"), "2999-01 is not over yet"),
        (("export", "focus"), "focus is by the month"),
        (("export", "books", "--project", "lab"), "cannot be narrowed down by --project"),
        (("export", "focus", "--month", "2026-09", "--model", "m"), "cannot be narrowed down by --model"),
        (("export", "requests", "-o", "r.xlsx"), "no files ending in .xlsx are written; give --format"),
        (("export", "requests", "--format", "parquet"), "Parquet needs a file"),
        (
            ("export", "requests", "--output", "/nowhere/r.csv"),
            "/nowhere/r.csv: No such file or directory",
        ),
        (("report", "--output", "/nowhere/r.html"), "/nowhere/r.html: No such file or directory"),
        (("report", "--database", "sqlite:////nowhere/store.db"), "there is no store at /nowhere/store.db"),
        (("report", "--database", "postgresql://127.0.0.1:9/none"), "Connection refused"),
    ],
)
def test_errors_say_what_is_wrong(directory: Path, words: tuple[str, ...], said: str) -> None:
    done = invoke(directory, *words)
    assert done.exit_code != 0
    assert said in " ".join(done.output.split())
    assert "Traceback" not in done.output


def test_without_tariffs_nothing_has_a_price_and_focus_is_refused(directory: Path) -> None:
    written = (directory / "joulegate.yaml").read_text()
    (directory / "joulegate.yaml").write_text(written.split("billing:")[0])
    assert "set billing.currency and billing.tariffs" in printed(directory, "invoice", "--month", "2026-09")
    assert "Costs" not in printed(directory, "report", "--month", "2026-09")
    refused = invoke(directory, "export", "focus", "--month", "2026-09")
    assert (refused.exit_code, "FOCUS is about money" in refused.output) == (1, True)
