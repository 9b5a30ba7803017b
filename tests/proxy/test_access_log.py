"""The access log: a line for every request, with its joules and without a word of its prompt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from accounting.records import RequestRecord
from proxy.access_log import AccessLog, line_of
from proxy.settings_observe import AccessLog as Settings
from simulator.process import SimulatedEngine
from tests.accounting.store.examples import record
from tests.proxy.stack import Stack, chat, metered, running, until

SECRET = "the launch code is 0000"


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def written(path: Path, records: list[RequestRecord], **settings: Any) -> list[dict[str, Any]]:
    access_log = AccessLog(Settings.model_validate({"enabled": True, "path": path, **settings}))
    with access_log.writing():
        for one in records:
            access_log.output(one)
    return lines(path)


def test_what_is_not_known_is_left_out_and_not_0() -> None:
    unmeasured = msgspec.structs.replace(record(1), energy_uj=None, first_token_us=None, cached_tokens=None)
    line = json.loads(msgspec.json.encode(line_of(unmeasured)))
    assert {"energy_joules", "ttft_ms", "cached_tokens"}.isdisjoint(line)
    assert line["prompt_tokens"] == unmeasured.prompt_tokens


def test_an_engines_words_are_not_logged(tmp_path: Path) -> None:
    quoting = msgspec.structs.replace(record(1), status="client_error", http_status=400, error=SECRET)
    written(tmp_path / "log", [quoting])
    assert SECRET not in (tmp_path / "log").read_text()


def test_a_sample_of_what_went_well_and_all_that_did_not(tmp_path: Path) -> None:
    good = [msgspec.structs.replace(record(n), uid=f"u{n}", status="ok") for n in range(1000)]
    bad = [msgspec.structs.replace(record(n), uid=f"b{n}", status="engine_error") for n in range(50)]
    found = written(tmp_path / "log", good + bad, sample=0.1)
    assert sum(line["status"] == "engine_error" for line in found) == 50
    assert 50 < sum(line["status"] == "ok" for line in found) < 160


def test_a_disabled_log_makes_no_file(tmp_path: Path) -> None:
    assert written(tmp_path / "log", [record(1)], enabled=False) == []
    assert not (tmp_path / "log").exists()


def test_a_file_that_was_moved_away_is_begun_anew_when_asked(tmp_path: Path) -> None:
    path = tmp_path / "log"
    settings = Settings(enabled=True, path=path)
    access_log = AccessLog(settings)
    with access_log.writing():
        access_log.output(record(1))
        until(lambda: bool(lines(path)), "the first line")
        path.rename(tmp_path / "old")
        access_log.use(settings)
        access_log.output(record(2))
    assert [line["uid"] for line in lines(tmp_path / "old")] == [record(1).uid]
    assert [line["uid"] for line in lines(path)] == [record(2).uid]


def test_lines_that_cannot_be_written_are_counted(tmp_path: Path) -> None:
    access_log = AccessLog(Settings(enabled=True, path=tmp_path / "no such directory" / "log"))
    with access_log.writing():
        access_log.output(record(1))
        until(lambda: access_log.dropped == 1, "the line is counted")


def test_lines_beyond_the_bound_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.access_log.MAX_WAITING", 2)
    access_log = AccessLog(Settings(enabled=True, path=tmp_path / "log"))
    for n in range(5):
        access_log.output(record(n))
    assert access_log.dropped == 3


def test_every_request_to_an_engine_has_a_line_with_its_joules(
    simulated: SimulatedEngine, tmp_path: Path
) -> None:
    path = tmp_path / "access.log"
    with running(
        tmp_path / "proxy", metered(simulated, access_log={"enabled": True, "path": str(path)})
    ) as stack:
        secret = [{"role": "user", "content": SECRET}]
        stack.post(
            chat(messages=secret, stream=True), request_id="streamed", authorization=f"Bearer {SECRET}"
        )
        stack.post(chat(messages=secret, model=SECRET), request_id="refused")
        stack.post({"model": "tiny", "prompt": SECRET}, path="/tokenize?q=1", request_id="free")
        stack.client.get("/v1/models", headers={"x-request-id": "models"})
        by_id = until(lambda: _by_id(path, 4), "four lines")
        compare(stack, by_id["streamed"])
    assert (by_id["refused"]["status"], by_id["refused"]["http_status"]) == ("client_error", 404)
    assert (by_id["free"]["route"], by_id["free"]["http_status"]) == ("/tokenize", 200)
    assert (by_id["models"]["method"], by_id["models"]["route"]) == ("GET", "/v1/models")
    assert by_id["free"]["duration_ms"] > 0
    assert "energy_joules" not in by_id["free"]
    # The model's name is the client's word, and kept as it came; nothing else of it is.
    assert {key for line in by_id.values() for key, value in line.items() if SECRET in str(value)} == {
        "model"
    }


def _by_id(path: Path, count: int) -> dict[str, dict[str, Any]] | None:
    found = {line["request_id"]: line for line in lines(path)}
    return found if len(found) == count else None


def compare(stack: Stack, line: dict[str, Any]) -> None:
    """The line says what the record does."""
    kept = stack.record(line["request_id"])
    for name in ("energy_joules", "prefill_joules", "completion_tokens", "status", "backend", "state"):
        assert line[name] == kept[name], name
    assert line["uid"] == kept["id"]
    assert 0 < line["ttft_ms"] < line["duration_ms"]
