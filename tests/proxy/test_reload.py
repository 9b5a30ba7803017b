"""Changed settings taken in by a running proxy, and what the command that checks them says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from joulegate.cli import main
from proxy.reload import LIVE, Reloader, differences
from proxy.settings import Settings, SettingsError, load
from simulator.process import SimulatedEngine
from tests.proxy.replicas import all_up, gauges, reload
from tests.proxy.stack import CHAT, chat, running, until

NO_METER = {"meter": {"source": "none"}}
HEALTH = {"interval_s": 0.3, "interval_down_s": 0.2}


def settings(**groups: Any) -> Settings:
    return load(None, {"backends": [{"id": "a", "url": "http://127.0.0.1:9"}], **groups})


def test_a_removed_backend_ends_its_streams_and_gets_no_more(
    simulated: SimulatedEngine, tmp_path: Path
) -> None:
    old = {"id": "old", "url": simulated.url}
    new = {"id": "new", "url": simulated.url.replace("127.0.0.1", "localhost")}
    with running(tmp_path, {"backends": [old], "health": HEALTH, **NO_METER}) as stack:
        request = {"x-request-id": "long"}
        with stack.client.stream(
            "POST", CHAT, json=chat(max_tokens=1500, stream=True), headers=request
        ) as stream:
            pieces = stream.iter_raw()
            begun = next(pieces)
            reload(stack, "settings reloaded: backends", backends=[new])
            assert gauges(stack, "backend_draining") == {"old": 1}
            stack.post(chat(max_tokens=1), request_id="after")
            content = begun + b"".join(pieces)
        assert content.endswith(b"data: [DONE]\n\n")
        long, after = stack.record("long"), stack.record("after")
        assert (long["backend"], long["status"], long["completion_tokens"]) == ("old", "ok", 1500)
        assert (after["backend"], after["status"]) == ("new", "ok")
        until(lambda: not gauges(stack, "backend_draining"), "it has drained")


def test_an_added_backend_gets_requests_and_both_are_listed(
    simulated: SimulatedEngine, tmp_path: Path
) -> None:
    one = {"id": "one", "url": simulated.url}
    two = {"id": "two", "url": simulated.url.replace("127.0.0.1", "localhost")}
    routing = {"policy": "round_robin"}
    with running(tmp_path, {"backends": [one], "health": HEALTH, **NO_METER}) as stack:
        assert stack.client.get("/v1/models").json()["data"][0]["id"] == "tiny"  # the engine's own answer
        reload(stack, "settings reloaded: backends, routing.policy", backends=[one, two], routing=routing)
        all_up(stack, 2)
        assert [card["id"] for card in stack.client.get("/v1/models").json()["data"]] == ["tiny"]
        ids = [f"r{n}" for n in range(4)]
        for request_id in ids:
            assert stack.post(chat(max_tokens=1), request_id=request_id).status_code == 200
        assert {stack.record(request_id)["backend"] for request_id in ids} == {"one", "two"}


def test_what_can_change_live_does_and_what_cannot_or_is_wrong_is_said(
    simulated: SimulatedEngine, tmp_path: Path
) -> None:
    backends = [{"id": "engine", "url": simulated.url}]
    with running(tmp_path, {"backends": backends, **NO_METER}) as stack:
        assert "energy" in stack.post(chat()).json()
        reload(
            stack,
            "these changes need a restart: server.max_body_mb",
            energy={"in_answers": False},
            timeouts={"idle_s": 5.0},
            server={"port": 0, "max_body_mb": 7.0},
        )
        assert "settings reloaded: energy.in_answers, timeouts.idle_s" in stack.proxy.log.read_text()
        assert "energy" not in stack.post(chat()).json()
        # a fault in the file changes nothing, and all faults are told
        reload(stack, "the settings were not reloaded", backends=[], timeouts={"idle_s": -1})
        said = stack.proxy.log.read_text()
        assert "timeouts.idle_s" in said
        assert "  backends:" in said
        assert stack.post(chat()).status_code == 200


def test_differences_are_told_by_path_and_never_by_value() -> None:
    old, new = settings(), settings(timeouts={"idle_s": 3}, database_url="sqlite:///secret.db")
    found = [
        path
        for name in Settings.model_fields
        for path in differences(name, getattr(old, name), getattr(new, name))
    ]
    assert sorted(found) == ["database_url", "timeouts.idle_s"]


def test_what_waits_for_a_restart_is_told_again_at_the_next_reload() -> None:
    reloader = Reloader(settings(), lambda: settings(server={"port": 1234}), {})
    assert reloader.reload().restart == ["server.port"]
    assert reloader.reload().restart == ["server.port"]
    assert reloader.current.server.port == 8080


def test_a_fault_leaves_the_settings_as_they_are() -> None:
    def broken() -> Settings:
        raise SettingsError("no such file")

    reloader = Reloader(settings(), broken, {})
    before = reloader.current
    assert reloader.reload().fault == "no such file"
    assert reloader.current is before


def test_only_groups_that_are_documented_as_live_can_be_applied() -> None:
    with pytest.raises(ValueError, match="server"):
        Reloader(settings(), settings, {"server": lambda new: None})
    assert set(LIVE) <= set(Settings.model_fields)


def check(file: Path) -> tuple[int, str, str]:
    done = CliRunner().invoke(main, ["check-config", str(file)], prog_name="joulegate")
    return done.exit_code, done.stdout, done.stderr


def test_check_config_tells_all_faults_at_once(tmp_path: Path) -> None:
    file = tmp_path / "wrong.yaml"
    wrong = {
        "backends": [{"id": "a b", "url": "ftp://x"}],
        "retry": {"tries": 0},
        "routing": {"policy": "magic"},
        "heath": {},
    }
    file.write_text(json.dumps(wrong))
    status, _, told = check(file)
    assert status == 2
    for path in ("backends.0.id", "backends.0.url", "retry.tries", "routing.policy", "heath"):
        assert f"  {path}: " in told, told


def test_check_config_says_what_a_good_file_means(tmp_path: Path) -> None:
    file = tmp_path / "good.yaml"
    backends = [{"id": "a", "url": "http://h:1"}, {"id": "b", "url": "http://h:2", "models": ["m"]}]
    file.write_text(json.dumps({"backends": backends, "routing": {"policy": "pack"}}))
    status, told, _ = check(file)
    assert status == 0
    assert "can be used: 2 backends" in told
    assert "b: http://h:2/" in told
    assert "routing: pack, session affinity" in told
    assert "Name the GPUs of each" in told


def test_check_config_without_the_file_is_a_line_and_a_status(tmp_path: Path) -> None:
    status, _, told = check(tmp_path / "none.yaml")
    assert status == 2
    assert "No such file" in told
