"""What the command line says, above all when something is wrong."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest
import yaml
from click.testing import CliRunner

from joulegate import __version__
from joulegate.cli import main
from joulegate.process import LISTENS, ProxyNotReady, ProxyProcess
from simulator.process import SimulatedEngine
from tests.proxy.stack import Stack, chat, metered, running, until

ENGINE = "http://127.0.0.1:1"


class Said(NamedTuple):
    status: int
    out: str
    err: str


def joulegate(*arguments: str, cwd: Path, **environment: str) -> Said:
    """Run it as a process of its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("JOULEGATE_")}
    done = subprocess.run(
        [sys.executable, "-m", "joulegate", *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**kept, **environment},
        timeout=60,
    )
    return Said(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, and no settings in the environment."""
    for name in [name for name in os.environ if name.startswith("JOULEGATE_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def told(*arguments: str, **environment: str) -> Said:
    """Run it in this process, which is quicker: for what ends before anything is started."""
    done = CliRunner().invoke(main, arguments, prog_name="joulegate", env=environment)
    return Said(done.exit_code, done.stdout, done.stderr)


def refused(said: Said, status: int) -> str:
    """What a command that started nothing says: to stderr, without a traceback."""
    assert said.status == status, said.err
    assert said.out == ""
    assert "Traceback" not in said.err
    return said.err


def test_help_names_every_command(tmp_path: Path) -> None:
    said = joulegate("--help", cwd=tmp_path)
    assert said.status == 0
    assert all(f"  {command} " in said.out for command in ("serve", "demo", "replay", "audit"))
    assert joulegate("--version", cwd=tmp_path).out.strip().endswith(__version__)


@pytest.mark.parametrize("command", ["serve", "demo", "replay", "audit"])
def test_every_command_has_help(command: str, here: Path) -> None:
    done = joulegate(command, "-h", cwd=here)  # on its own: click keeps the help of whoever asked first
    assert (done.status, done.out.startswith("Usage: ")) == (0, True)


def test_serve_without_anything_says_what_to_do(here: Path) -> None:
    said = refused(told("serve"), 2)
    for way in ("--backend http://127.0.0.1:8000", "--config joulegate.yaml", "joulegate demo"):
        assert way in said


def test_the_example_in_that_text_is_a_configuration_that_works(here: Path) -> None:
    said = told("serve").err
    example = said[said.index("      backends:") : said.index("  joulegate demo")]
    assert yaml.safe_load(example) == {"backends": [{"id": "llama", "url": "http://127.0.0.1:8000"}]}


def test_a_wrong_configuration_is_told_whole(here: Path) -> None:
    wrong = {"backends": [{"id": "a b", "url": "here"}], "server": {"prot": 1}, "colour": "red"}
    (here / "joulegate.yaml").write_text(yaml.safe_dump(wrong))
    said = refused(told("serve"), 2)
    assert "joulegate.yaml cannot be used:" in said
    for place in ("backends.0.id", "backends.0.url", "server.prot: there is no such setting", "colour"):
        assert place in said


def test_a_configuration_that_is_not_there_is_told(here: Path) -> None:
    for command in (["serve", "--config"], ["check-config"], ["meters", "--config"], ["keys", "--config"]):
        done = told(*command, "none.yaml", *(["list"] if command[0] == "keys" else []))
        assert "none.yaml: No such file" in refused(done, 2)


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"database_url": "nonsense"}, "database_url: the store's URL is not one: write sqlite:///PATH or "),
        ({"database_url": "mysql://me:secret@db/x"}, "database_url: the store cannot be 'mysql': use sqlite"),
        ({"database_url": "sqlite://"}, "database_url: the store needs a file"),
        (
            {"meters": [{"source": "zeusd", "url": "http://127.0.0.1:1", "token_env": "NO_SUCH_TOKEN"}]},
            "meters.0.token_env: the environment variable NO_SUCH_TOKEN holds no token",
        ),
    ],
)
def test_what_a_start_refuses_is_found_before_it_in_the_same_words(
    settings: dict[str, object], fault: str, here: Path
) -> None:
    engine = {"id": "e", "url": ENGINE, "gpus": ["GPU-1"]}
    (here / "joulegate.yaml").write_text(yaml.safe_dump({"backends": [engine], **settings}))
    checked = refused(told("check-config", "joulegate.yaml"), 2)
    assert f"Error: joulegate.yaml cannot be used:\n  {fault}" in checked
    assert refused(told("serve"), 2) == checked
    assert "secret" not in checked


def test_what_a_start_refuses_of_the_environment_is_told_of_it(here: Path) -> None:
    (here / "joulegate.yaml").write_text(yaml.safe_dump({"backends": [{"id": "e", "url": ENGINE}]}))
    done = told("check-config", "joulegate.yaml", JOULEGATE_DATABASE_URL="nonsense")
    assert "the environment cannot be used:\n  JOULEGATE_DATABASE_URL: the store's URL" in refused(done, 2)


def test_without_a_gpu_to_measure_it_says_what_can_be_done(here: Path) -> None:
    library = here / "libnvidia-ml.so.1"
    done = told("serve", "--backend", ENGINE, JOULEGATE_METER__LIBRARY=str(library))
    said = refused(done, 2)
    for way in (str(library), "--no-meter", "joulegate demo", "meter.library"):
        assert way in said


def test_a_meter_elsewhere_that_does_not_answer_is_no_matter_of_this_machines_gpus(here: Path) -> None:
    meters = [{"source": "zeusd", "url": ENGINE}]
    settings = {"backends": [{"id": "e", "url": ENGINE}], "meters": meters}
    (here / "joulegate.yaml").write_text(yaml.safe_dump(settings))
    said = refused(told("serve"), 2)
    assert f"zeusd at {ENGINE} cannot be reached" in said
    assert "--no-meter" in said
    for of_this_machine in ("NVIDIA", "meter.library", "joulegate demo"):
        assert of_this_machine not in said


def test_a_port_in_use_is_told(here: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = told("serve", "-b", ENGINE, "--no-meter", "--port", str(port))
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in refused(done, 1)


def test_a_data_directory_in_use_by_another_is_told(simulated: SimulatedEngine, tmp_path: Path) -> None:
    settings = {"backends": [{"id": "e", "url": simulated.url}], "meter": {"source": "none"}}
    with ProxyProcess(tmp_path / "first", settings) as first:
        data = ["--data-dir", str(first.data_dir)]
        done = joulegate("serve", "-b", ENGINE, "--no-meter", "--port", "0", *data, cwd=tmp_path)
        said = refused(done, 1)
        assert "is in use by another joulegate; give this one a data_dir of its own" in said
        assert httpx.get(f"{first.url}/ready").status_code == 200


def test_a_file_that_is_no_database_is_told_and_left_alone(tmp_path: Path) -> None:
    database = tmp_path / "data" / "joulegate.db"
    database.parent.mkdir()
    database.write_text("my notes, and surely not a database of anything\n" * 20)
    before = database.read_bytes()
    done = joulegate("serve", "-b", ENGINE, "--no-meter", "--port", "0", "--data-dir", "data", cwd=tmp_path)
    assert "file is not a database" in refused(done, 1)
    assert database.read_bytes() == before


def test_a_damaged_journal_is_told(tmp_path: Path) -> None:
    journal = tmp_path / "data" / "journal"
    journal.mkdir(parents=True)
    for number in (1, 2):  # of the last one alone a power failure may have taken the beginning
        (journal / f"{number:08d}.ndjson").write_text("no header\n")
    done = joulegate("serve", "-b", ENGINE, "--no-meter", "--port", "0", "--data-dir", "data", cwd=tmp_path)
    assert "00000001.ndjson is not a journal segment" in refused(done, 1)


def test_a_password_in_the_databases_url_is_not_shown(tmp_path: Path) -> None:
    url = "postgresql://joulegate:secret@127.0.0.1:1/joulegate"
    command = [sys.executable, "-m", "joulegate", "serve", "-b", ENGINE, "--no-meter", "--port", "0"]
    environment = {**os.environ, "JOULEGATE_DATABASE_URL": url}
    said = ""
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:  # it serves all the same, and says what is away
            said += line
            if "postgresql" in line:
                process.send_signal(signal.SIGINT)
    assert "postgresql" in said
    assert "secret" not in said


def test_no_meter_serves_with_energy_null(simulated: SimulatedEngine, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "joulegate", "serve", "-b", simulated.url, "--no-meter", "--port", "0"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            url = process.stdout.readline().removeprefix(LISTENS).split()[0]
            banner = [process.stdout.readline() for _ in range(3)]
            assert "  no GPU is measured: energies will be null\n" in banner
            energy = httpx.post(f"{url}/v1/chat/completions", json=chat(), timeout=30).json()["energy"]
            assert (energy["energy_joules"], energy["attribution_method"]) == (None, "none/none")
        finally:
            process.send_signal(signal.SIGINT)
        process.wait(30)
        assert process.returncode == -signal.SIGINT


def test_gpus_that_are_named_may_be_away(simulated: SimulatedEngine, tmp_path: Path) -> None:
    backend = {"id": "e", "url": simulated.url, "gpus": ["GPU-gone"]}
    library = {"library": str(tmp_path / "no.so")}
    with running(tmp_path, {"backends": [backend], "meter": library}) as stack:
        answer = stack.post(chat())
        assert (answer.status_code, answer.json()["energy"]["energy_joules"]) == (200, None)
        until(
            lambda: any("GPU-gone" in w for w in stack.client.get("/ready").json()["warnings"]),
            "a warning that names the GPU",
        )
        stack.ended(answer.headers["x-request-id"], "ok", 200)


def test_a_start_that_fails_is_told_with_its_log(tmp_path: Path) -> None:
    with pytest.raises(ProxyNotReady, match="leave out the /v1"):
        ProxyProcess(tmp_path, {"backends": [{"id": "e", "url": f"{ENGINE}/v1"}]}).start()


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (None, "nowhere does not exist"),
        ("directory", "there is no journal in nowhere"),
        ("file", "nowhere is not a journal segment"),
    ],
)
def test_replay_of_what_is_no_journal_is_told(make: str | None, says: str, here: Path) -> None:
    if make == "directory":
        (here / "nowhere").mkdir()
    elif make == "file":
        (here / "nowhere").write_text("my notes\n")
    assert says in refused(told("replay", "nowhere"), 1)


def test_a_journal_can_be_replayed_while_it_is_written(simulated: SimulatedEngine, tmp_path: Path) -> None:
    with running(tmp_path / "p", metered(simulated)) as stack:
        request_id = stack.post(chat()).headers["x-request-id"]
        stack.record(request_id)
        for path in (stack.proxy.data_dir, stack.proxy.data_dir / "journal"):
            done = joulegate("replay", str(path), cwd=tmp_path)
            assert done.status == 0, done.err
            assert request_id in done.out
            assert '"balanced": true' in done.out.splitlines()[-1]
        _still_serves(stack)


def _still_serves(stack: Stack) -> None:
    assert stack.post(chat()).status_code == 200
