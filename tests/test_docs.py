"""What the documents say is there: routes, fields, metrics, commands, links. And no file says too much."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from fastapi.testclient import TestClient

from joulegate.cli import main as joulegate
from proxy import errors
from proxy.app import create_app
from proxy.energy import energy_object
from proxy.paths import RELAYED
from proxy.settings import Settings
from simulator.__main__ import main as simulator
from tests.accounting.store.examples import record

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.glob("*.md")])
API = (DOCS / "api.md").read_text()
OPERATIONS = (DOCS / "operations.md").read_text()

GROUPS: dict[str, click.Group] = {"joulegate": joulegate, "python -m simulator": simulator}
COMMAND = re.compile(rf"^(?:\.venv/bin/)?({'|'.join(GROUPS)})((?: .*)?)$")

# Hosts of package and image registries, written in halves so that this file passes its own test.
HALVES = [("py", r"pi\.org"), ("python", "hosted"), ("npm", r"js\."), ("deb", r"\.debian"), ("ghcr", r"\.io")]
HALVES += [("docker", r"\.io"), (" --index", "-url"), ("--extra", "-index")]
HOSTS = re.compile("|".join(first + second for first, second in HALVES))
MACHINES = re.compile(r"(?<![\w.])/(?:work|root|home)/\w")


def openapi() -> dict[str, Any]:
    """The document of an app with two engines: it has all routes."""
    backends = [{"id": name, "url": "http://127.0.0.1:9"} for name in ("one", "two")]
    return create_app(Settings.model_validate({"backends": backends}), [], version="0").openapi()


def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
    return loaded


def commands() -> Iterator[tuple[str, str]]:
    """Every command line of ours in the documents and in compose.yaml: where, and the line."""
    for page in PAGES:
        text = page.read_text().replace("\\\n", " ")
        blocks = re.findall(r"```\w*\n(.*?)```", text, re.DOTALL)
        lines = [line for block in blocks for line in block.splitlines()]
        for line in [*lines, *re.findall(r"`([^`\n]+)`", text)]:
            if COMMAND.match(line.strip()):
                yield page.name, line.strip()
    for name, service in compose()["services"].items():
        if "build" in service:
            program = "python -m simulator serve" if "entrypoint" in service else "joulegate"
            yield f"compose.yaml: {name}", f"{program} {shlex.join(service['command'])}"


def parse(line: str) -> None:
    """Let click read a line without running it. Raises click.ClickException for what it does not know."""
    found = COMMAND.match(line)
    assert found is not None, line
    group, words = GROUPS[found[1]], shlex.split(found[2], comments=True)
    if not words or words[0].startswith("-"):
        assert words in ([], ["--help"], ["--version"]), line
        return
    command = group.get_command(click.Context(group), words[0])
    if command is None:
        raise click.UsageError(f"there is no command {words[0]!r}")
    if words[1:]:  # a command that is only named need not be complete
        command.make_context(words[0], words[1:])


def test_every_route_is_in_the_api_page() -> None:
    paths = [*openapi()["paths"], *RELAYED]
    assert "/v1/energy/books" in paths
    assert [path for path in paths if not re.search(rf"[` ]{re.escape(path)}`", API)] == []


def test_every_field_and_parameter_is_in_the_api_page() -> None:
    document = openapi()
    lists = ("RequestView", "RequestList", "ShareView", "BooksView", "BooksList")
    ours = (*lists, "DeviceView", "DeviceList", "Points", "FlowView", "FlowList")
    names = {field for view in ours for field in document["components"]["schemas"][view]["properties"]}
    ways = [way for ways in document["paths"].values() for way in ways.values()]
    names |= {p["name"] for way in ways for p in way.get("parameters", ())}
    names |= set(energy_object(record(1)))
    assert len(names) > 50
    assert {name for name in names if f"`{name}`" not in API} == set()


def test_every_error_of_the_proxy_is_in_the_api_page() -> None:
    known = errors.ApiError.__subclasses__()
    assert errors.BackendTimeout in known
    for error in known:
        row = f"| {error.status} | `{error.kind}` | "
        assert any(line.startswith(row) for line in API.splitlines()), row
        assert error.default_code is None or f"`{error.default_code}`" in API


def test_every_metric_is_in_the_operations_page(tmp_path: Path) -> None:
    away = {"id": "away", "url": "http://127.0.0.1:9"}
    settings = Settings.model_validate(
        {"backends": [away], "meter": {"source": "none"}, "data_dir": tmp_path / "data"}
    )
    with TestClient(create_app(settings, [], version="0")) as client:
        text = client.get("/metrics").raise_for_status().text
    names = set(re.findall(r"^# HELP (\w+) ", text, re.MULTILINE))
    assert "joulegate_backend_up" in names
    created = {name for name in names if name.endswith("_created")}
    assert {name for name in names - created if f"`{name}`" not in OPERATIONS} == set()


@pytest.mark.parametrize(("where", "line"), list(commands()))
def test_every_command_line_in_the_documents_can_be_parsed(where: str, line: str) -> None:
    try:
        parse(line)
    except click.ClickException as error:
        pytest.fail(f"{where}: {line}: {error.format_message()}")


@pytest.mark.parametrize(
    "line", ["joulegate serve --bakend x", "joulegate srve", "python -m simulator serve --port 1"]
)
def test_a_wrong_command_line_is_found(line: str) -> None:
    with pytest.raises(click.ClickException):
        parse(line)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        assert target.startswith("https://") or (page.parent / target).exists(), target


def test_compose_publishes_to_this_machine_only() -> None:
    ports = [port for service in compose()["services"].values() for port in service.get("ports", ())]
    assert ports
    assert [port for port in ports if not port.startswith("127.0.0.1:")] == []


def test_no_file_names_a_registry_or_a_path_of_somebodys_machine() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    files = [ROOT / name for name in listed.decode().split("\0") if name]
    assert Path(__file__) in files
    for file in files:
        if file.is_file():
            text = file.read_bytes().decode("utf-8", "replace")
            found = [*HOSTS.findall(text), *MACHINES.findall(text)]
            assert not found, file.relative_to(ROOT)


def test_files_that_the_documents_name_are_there() -> None:
    rooms = {entry.name for entry in ROOT.iterdir() if entry.is_dir()}
    pattern = re.compile(r"`((?:[\w.-]+/)+[\w.-]+\.(?:py|md|yaml|yml|svg|lock|toml|c))`")
    named = {
        (page.name, path)
        for page in PAGES
        for path in pattern.findall(page.read_text())
        if path.split("/")[0] in rooms
    }
    assert len(named) > 30
    assert [one for one in sorted(named) if not (ROOT / one[1]).is_file()] == []
