"""A sweep against a joulegate that asks for keys: one key sends, the admin's sees what it cost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from joulegate.cli import main
from joulegate.sweep import keys
from joulegate.sweep.plan import SweepError
from joulegate.sweep.results import load
from simulator.process import SimulatedEngine
from tests.proxy.access.keyed import ADMIN_SECRET, guarded, keyed, new_key
from tests.proxy.stack import Stack

MODEL = "openai/gpt-oss-120b"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    directory = tmp_path_factory.mktemp("keyed")
    with (
        SimulatedEngine(directory / "engine", model=MODEL, gpu="b200") as engine,
        keyed(directory / "proxy", guarded(engine)) as one,
    ):
        yield one


def sweep(stack: Stack, out: Path, *, sending: str | None, seeing: str | None) -> tuple[int, str]:
    command = ["sweep", "--url", stack.proxy.url, "--model", MODEL, "--task", "reasoning", "--levels", "1"]
    command += ["--seconds", "4", "--warm-up", "0.1", "--shorter", "0.02", "--out", str(out)]
    environment = {keys.SENDING: sending, keys.SEEING: seeing}
    done = CliRunner().invoke(main, command, env=environment)
    return done.exit_code, done.output


def test_two_keys_from_the_environment_are_enough_and_are_written_nowhere(
    stack: Stack, tmp_path: Path
) -> None:
    _, secret = new_key(stack)
    status, said = sweep(stack, tmp_path, sending=secret, seeing=ADMIN_SECRET)
    assert status == 0, said
    (ran,) = load(tmp_path)[1]
    assert ran.level.failures == 0
    assert ran.level.proof.met
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    for hidden in (secret, ADMIN_SECRET):
        assert hidden.encode() not in written
        assert hidden not in said


def test_it_says_which_key_is_missing_before_anything_is_sent(stack: Stack, tmp_path: Path) -> None:
    _, secret = new_key(stack)
    for sending, seeing, expected in (
        (None, None, "asks for a key: set JOULEGATE_ADMIN_KEY"),
        (secret, None, "is for the admin only: set JOULEGATE_ADMIN_KEY"),
        (secret, secret, "the key in JOULEGATE_ADMIN_KEY is not the admin's"),
        (secret, "sk-jg-nobodys", "does not know the key in JOULEGATE_ADMIN_KEY"),
        ("sk-jg-nobodys", None, "does not know the key in OPENAI_API_KEY"),
    ):
        status, said = sweep(stack, tmp_path, sending=sending, seeing=seeing)
        assert status == 1
        assert expected in said
        assert "http" not in said.replace(stack.proxy.url, "")
    assert not list(tmp_path.glob("level-*"))


@pytest.mark.parametrize(
    ("sending", "expected"),
    [
        ("sk-jg-nobodys", "(status 401): OPENAI_API_KEY has no key that is good"),
        (ADMIN_SECRET, "(status 403): the key in OPENAI_API_KEY may not send this"),
    ],
)
def test_it_says_where_the_key_that_sends_is_refused(
    stack: Stack, tmp_path: Path, sending: str, expected: str
) -> None:
    status, said = sweep(stack, tmp_path, sending=sending, seeing=ADMIN_SECRET)
    assert status == 1
    assert expected in said


def test_what_cannot_be_a_key_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(keys.SEEING, "half a secret\nof two lines")
    with pytest.raises(SweepError, match="JOULEGATE_ADMIN_KEY has characters") as refused:
        keys.to_see()
    assert "secret" not in str(refused.value)


def test_the_load_generator_is_not_given_the_admins_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(keys.SEEING, ADMIN_SECRET)
    monkeypatch.setenv(keys.SENDING, "another")
    given = keys.environment_to_send()
    assert ADMIN_SECRET not in given.values()
    assert given[keys.SENDING] == "another"
