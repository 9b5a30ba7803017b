"""Settings: where they come from, which wins, and how faults are told."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from proxy import settings_doc
from proxy.settings import Settings, SettingsError, load

ENGINE = {"id": "llama", "url": "http://127.0.0.1:8000"}
DOCUMENT = Path(__file__).parents[2] / "docs" / "settings.md"


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("JOULEGATE_")]:
        monkeypatch.delenv(name)


def written(directory: Path, settings: Any) -> Path:
    path = directory / "joulegate.yaml"
    path.write_text(settings if isinstance(settings, str) else yaml.safe_dump(settings))
    return path


def faults(path: Path | None = None, **given: Any) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load(path, given)
    return str(caught.value).splitlines()


def test_one_backend_is_all_that_is_needed() -> None:
    settings = load(given={"backends": [ENGINE]})
    assert (settings.server.host, settings.server.port) == ("127.0.0.1", 8080)
    assert (settings.backends[0].id, settings.backends[0].gpus) == ("llama", "all")
    assert settings.store_url.startswith("sqlite:////")
    assert settings.store_url.endswith("/joulegate-data/joulegate.db")


def test_the_environment_wins_over_the_file_and_options_over_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, {"backends": [ENGINE], "server": {"port": 1, "host": "::1"}, "data_dir": "file"})
    assert load(path).server.port == 1
    monkeypatch.setenv("JOULEGATE_SERVER__PORT", "2")
    monkeypatch.setenv("JOULEGATE_DATA_DIR", "environment")
    assert (load(path).server.port, load(path).server.host) == (2, "::1")
    chosen = load(path, options={"server": {"port": 3, "host": None}, "data_dir": None})
    assert (chosen.server.port, chosen.server.host, chosen.data_dir) == (3, "::1", Path("environment"))


def test_backends_can_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOULEGATE_BACKENDS", '[{"id": "e", "url": "http://127.0.0.1:9"}]')
    assert [b.id for b in load().backends] == ["e"]


def test_all_faults_are_told_at_once_each_with_its_path(tmp_path: Path) -> None:
    wrong = {
        "server": {"port": 99999, "prot": 3},
        "backends": [{"id": "a b", "url": "nonsense", "gpus": 3}, {"url": "http://127.0.0.1:1/v1/"}],
        "timeouts": {"idle_s": -1},
        "energy": {"in_streams": "sometimes"},
        "colour": "red",
    }
    path = written(tmp_path, wrong)
    head, *told = faults(path)
    assert head == f"{path} cannot be used:"
    assert [line.strip().split(": ")[0] for line in told] == [
        "server.port",
        "server.prot",
        "backends.0.id",
        "backends.0.url",
        "backends.0.gpus",
        "backends.1.id",
        "backends.1.url",
        "energy.in_streams",
        "timeouts.idle_s",
        "colour",
    ]


def test_an_unknown_setting_is_called_one() -> None:
    assert faults(backends=[ENGINE], tiemouts={})[1:] == ["  tiemouts: there is no such setting"]


def test_an_unknown_setting_in_the_environment_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOULEGATE_SERVER__PROT", "1")
    assert faults(backends=[ENGINE]) == [
        "the environment cannot be used:",
        "  JOULEGATE_SERVER__PROT: there is no such setting",
    ]


def test_variables_of_others_with_the_same_prefix_are_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    # Kubernetes gives every pod of a namespace such a one for a service called joulegate.
    monkeypatch.setenv("JOULEGATE_PORT", "tcp://10.0.0.1:8080")
    assert load(given={"backends": [ENGINE]}).server.port == 8080


def test_a_list_in_the_environment_that_is_no_json_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOULEGATE_BACKENDS", "http://127.0.0.1:8000")
    says = "is not valid JSON: Expecting value, at character 1"
    assert faults() == ["the environment cannot be used:", f"  JOULEGATE_BACKENDS: {says}"]
    monkeypatch.setenv("JOULEGATE_BACKENDS", '[{"id": "e", "url": "http://127.0.0.1:9"}]')
    monkeypatch.setenv("JOULEGATE_BILLING__TARIFFS", "[{")
    assert "  JOULEGATE_BILLING__TARIFFS: is not valid JSON: " in "\n".join(faults())


def test_each_fault_stands_under_the_source_that_it_comes_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, {"backends": [ENGINE], "timeouts": {"idle_s": -1}, "server": {"port": 99999}})
    monkeypatch.setenv("JOULEGATE_SERVER__PORT", "100000")
    monkeypatch.setenv("JOULEGATE_BACKENDS", '[{"id": "e", "url": "127.0.0.1:9"}]')
    with pytest.raises(SettingsError) as caught:
        load(path, options={"pue": 0, "meter": {"source": None}})
    most, least = "Input should be less than or equal to", "Input should be greater than"
    assert str(caught.value).splitlines() == [
        f"{path} cannot be used:",
        f"  timeouts.idle_s: {least} 0",
        "the environment cannot be used:",
        f"  JOULEGATE_SERVER__PORT: {most} 65535",
        "  JOULEGATE_BACKENDS (backends.0.url): must begin with http:// or https://",
        "the options cannot be used:",
        f"  pue: {least} or equal to 1",
    ]


def test_a_fault_of_a_group_or_of_all_names_the_variables_that_have_a_part_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = written(tmp_path, {"backends": [ENGINE]})
    monkeypatch.setenv("JOULEGATE_ACCESS__ADMIN_KEY", "short")
    weak = "the admin key has to have at least 16 characters"
    assert faults(alone) == [
        "the environment cannot be used:",
        f"  JOULEGATE_ACCESS__ADMIN_KEY (access): {weak}",
    ]
    both = written(tmp_path, {"backends": [ENGINE], "access": {"enabled": True}})
    assert faults(both) == [
        f"{both} cannot be used:",
        f"  access: {weak} (with JOULEGATE_ACCESS__ADMIN_KEY from the environment)",
    ]
    monkeypatch.delenv("JOULEGATE_ACCESS__ADMIN_KEY")
    monkeypatch.setenv("JOULEGATE_SERVER__HOST", "0.0.0.0")
    assert faults(backends=[ENGINE])[1].startswith(
        "  JOULEGATE_SERVER__HOST: 0.0.0.0 can be reached from outside"
    )


@pytest.mark.parametrize(
    ("engine", "says"),
    [
        ({"url": "127.0.0.1:8000"}, "url: must begin with http:// or https://"),
        ({"url": "localhost:8000"}, "url: must begin with http:// or https://"),
        ({"url": "http://a:b"}, "url: is no URL: invalid port number"),
        ({"id": "a b"}, "id: give 1 to 64 letters of A to Z, digits, dots, underscores and hyphens"),
        ({"model_card": {}}, "model_card.name: is missing"),
    ],
)
def test_faults_are_told_in_plain_words(engine: dict[str, Any], says: str) -> None:
    assert faults(backends=[{**ENGINE, **engine}]) == ["the options cannot be used:", f"  backends.0.{says}"]
    assert faults() == ["the settings cannot be used:", "  backends: is missing"]


@pytest.mark.parametrize("end", ["/v1", "/v1/", "/llama/v1"])
def test_a_url_with_v1_at_the_end_is_refused(end: str) -> None:
    told = faults(backends=[{**ENGINE, "url": ENGINE["url"] + end}])
    assert told[1:] == ["  backends.0.url: leave out the /v1 at the end"]


def test_a_url_may_have_a_path() -> None:
    settings = load(given={"backends": [{**ENGINE, "url": ENGINE["url"] + "/llama"}]})
    assert settings.backends[0].url.path == "/llama"


def test_two_backends_cannot_have_one_id() -> None:
    assert faults(backends=[ENGINE, ENGINE])[1:] == ["  backends: the id 'llama' is used twice"]


def test_gpus_are_a_list_of_uuids_or_all() -> None:
    told = faults(backends=[{**ENGINE, "gpus": "GPU-1"}])
    hint = "give a list of GPU UUIDs, or all, or cuda:0,1 as in CUDA_VISIBLE_DEVICES"
    assert told[1:] == [f"  backends.0.gpus: {hint}"]
    assert load(given={"backends": [{**ENGINE, "gpus": ["GPU-1"]}]}).backends[0].gpus == ["GPU-1"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "must hold settings"),
        ("[1]", "must hold settings"),
        ("a: [", "not valid YAML"),
        ("{}", "backends:"),
    ],
)
def test_a_file_that_holds_no_settings_is_told(tmp_path: Path, text: str, says: str) -> None:
    assert says in "\n".join(faults(written(tmp_path, text)))


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    assert faults(tmp_path / "none.yaml") == [f"{tmp_path}/none.yaml: No such file or directory"]


def test_every_setting_says_what_it_means() -> None:
    assert [path for path, _, _, meaning in settings_doc.rows() if not meaning] == []


def test_every_group_of_settings_is_in_the_document() -> None:
    paths = {path for path, *_ in settings_doc.rows()}
    assert {"server.port", "backends", "backends[].url", "backends[].model_card.layers", "data_dir"} <= paths
    assert {path.split(".")[0].removesuffix("[]") for path in paths} == set(Settings.model_fields)


def test_the_document_is_up_to_date() -> None:
    assert DOCUMENT.read_text() == settings_doc.document(), (
        "run: python -m proxy.settings_doc > docs/settings.md"
    )
