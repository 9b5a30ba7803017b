"""The routes of diagnosis and capacity, over a real store, and what the commands print of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from fastapi import FastAPI
from fastapi.testclient import TestClient

from accounting.diagnosis.asking import Asking
from accounting.records import MINUTE_US
from accounting.store.engine import connect, migrate
from accounting.store.writer import StoreWriter
from joulegate.commands.capacity import command as capacity
from joulegate.commands.diagnose import command as diagnose
from proxy import errors
from proxy.routes import diagnosis
from tests.accounting.diagnosis.examples import T0_US, empty, facts
from tests.accounting.store.examples import record

START, END = T0_US / 1e6, (T0_US + 4 * MINUTE_US) / 1e6
TIMES = ("--from", "2026-09-21T14:14", "--to", "2026-09-21T14:18")


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data")
    engine = connect(f"sqlite:///{path}/joulegate.db")
    migrate(engine)
    writer = StoreWriter(engine, "journal-1")
    changes: dict[str, Any] = {"backend": "one", "started_us": T0_US, "prompt_tokens": 100}
    some = [record(n, finished_us=T0_US + n + 1, completion_tokens=50, **changes) for n in range(20)]
    writer.put([facts(0, steps=3_000), facts(1), empty(2), *some], segment=0)
    assert writer.close(timeout_s=20)
    engine.dispose()
    return path


@pytest.fixture
def client(directory: Path) -> Iterator[TestClient]:
    app = FastAPI()
    errors.install(app)
    app.include_router(diagnosis.router)
    engine = connect(f"sqlite:///{directory}/joulegate.db")
    app.state.diagnosis = Asking(engine)
    with TestClient(app) as client:
        yield client
    engine.dispose()


def ask(client: TestClient, path: str, **query: Any) -> dict[str, Any]:
    answer = client.get(f"/v1/energy/{path}", params={"start_time": START, "end_time": END, **query})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def test_a_diagnosis_names_the_cause_with_its_saving(client: TestClient) -> None:
    found = ask(client, "diagnosis")
    first = found["findings"][0]
    assert (found["object"], first["cause"], first["kind"]) == ("energy.diagnosis", "idle-power", "waste")
    assert first["saving_joules"] == pytest.approx(6_000.0)
    assert first["evidence"]["idle_power_w"] == 100.0
    assert found["where"]["requests_uj"] == 20 * 9_000_001
    assert {"replicas", "kv-memory"} <= {one["cause"] for one in found["ruled_out"]}


def test_capacity_answers_within_its_limits(client: TestClient) -> None:
    found = ask(client, "capacity", itl_ms=12, requests_per_s=1, growth_per_month=0.5)
    assert found["most"]["itl_ms"] <= 12
    assert found["most"]["held_by"] == "itl"
    assert found["forecast"]["requests_per_s"] == 1
    assert found["months"] > 0
    assert found["changed"] is None
    assert [one["minutes"] for one in found["seen"]] == [2]


@pytest.mark.parametrize("path", ["diagnosis", "capacity"])
@pytest.mark.parametrize("query", [{"model": "nobody's"}, {"start_time": END + 1e6, "end_time": END + 2e6}])
def test_what_nobody_knows_is_a_400_in_openais_shape(
    client: TestClient, path: str, query: dict[str, Any]
) -> None:
    answer = client.get(f"/v1/energy/{path}", params={"start_time": START, "end_time": END, **query})
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert "nothing is known" in answer.json()["error"]["message"]


def test_impossible_limits_are_refused(client: TestClient) -> None:
    for query in (
        {"power_w": 0},
        {"percent": 100},
        {"prompt_factor": -1},
        {"start_time": END, "end_time": START},
    ):
        answer = client.get("/v1/energy/capacity", params=query)
        assert (answer.status_code, set(answer.json())) == (400, {"error"})


@pytest.mark.parametrize("width", [80, 150])
def test_the_commands_fit_the_terminal(directory: Path, width: int) -> None:
    for command, more in ((diagnose, ()), (capacity, ("--itl", "12", "--power", "2000", "--answers", "2"))):
        shown = CliRunner().invoke(
            command, [*TIMES, *more, "--data-dir", str(directory)], env={"COLUMNS": str(width)}
        )
        assert shown.exit_code == 0, shown.output
        assert max(len(line) for line in shown.output.splitlines()) <= width
    assert "Most:" in shown.output


def test_json_is_what_the_rest_answers(directory: Path, client: TestClient) -> None:
    shown = CliRunner().invoke(diagnose, [*TIMES, "--json", "--data-dir", str(directory)])
    assert json.loads(shown.output) == ask(client, "diagnosis")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--last", "3x"], "30m, 6h or 7d"),
        (["--last", "1h", "--from", "2026-09-21"], "not both"),
        (["--from", "2026-09-21", "--to", "2026-09-20"], "not before"),
        (["--from", "soon"], "soon is no time: write one as"),
        ([*TIMES, "--tenant", "nobody"], "nothing is known"),
    ],
)
def test_a_wrong_question_is_told_in_a_line(directory: Path, words: list[str], says: str) -> None:
    shown = CliRunner().invoke(diagnose, [*words, "--data-dir", str(directory)])
    assert shown.exit_code != 0
    assert says in shown.output
