"""`joulegate keys`: what it makes and shows, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import update

from accounting.store.engine import connect
from accounting.store.schema import AccessKey
from joulegate.cli import main

YEAR_275760_US = 8_640_000_000_000_000_000


def keys(directory: Path, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["keys", "--data-dir", str(directory), *arguments])


def refused(done: Result, status: int) -> str:
    assert (done.exit_code, done.stdout) == (status, ""), done.output
    assert isinstance(done.exception, SystemExit)  # and nothing that ends in a traceback
    return done.stderr


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["", "--project", "p"], "'NAME': must not be empty"),
        (["a\nb"], "'NAME': give text of one line"),
        (["bob", "--project", "p" * 201], "'--project': String should have at most 200 characters"),
        (["bob", "--expires-in", "99999999d"], "'--expires-in': the key has to end before the year 10000"),
        (["bob", "--expires-in", "0s"], "'--expires-in': '0s' is no time at all"),
        (["bob", "--joules-per-day", "nan"], "'--joules-per-day': Input should be a finite number"),
        (["bob", "--joules-per-month", "inf"], "'--joules-per-month': Input should be a finite number"),
        (["bob", "--joules-per-day", "1e300"], "'--joules-per-day': Input should be less than or equal to 1"),
        (["bob", "--joules-per-day", "-1"], "'--joules-per-day': Input should be greater than or equal to 0"),
        (["bob", "--requests-per-minute", "9" * 20], "'--requests-per-minute': Input should be less than"),
    ],
)
def test_what_the_admin_api_would_refuse_is_refused_and_nothing_is_made(
    options: list[str], says: str, tmp_path: Path
) -> None:
    said = refused(keys(tmp_path / "new", "create", *options), 2)
    assert f"Error: Invalid value for {says}" in said
    assert not (tmp_path / "new").exists()


def test_limits_and_times_of_grace_have_the_same_bounds(tmp_path: Path) -> None:
    for limit in (["--joules-per-day", "nan"], ["--parallel-requests", "9" * 20]):
        assert "Input should be" in refused(keys(tmp_path, "limit", "project/p", *limit), 2)
    assert "'NAME': String should have at most" in refused(keys(tmp_path, "limit", "team/" + "t" * 201), 2)
    assert "a year at most" in refused(keys(tmp_path, "rotate", "key_x", "--grace", "99999999d"), 2)


def test_a_key_that_was_stored_with_an_end_that_no_calendar_has_is_listed(tmp_path: Path) -> None:
    assert keys(tmp_path, "create", "bob", "--expires-in", "1d").exit_code == 0
    engine = connect(f"sqlite:///{tmp_path}/joulegate.db")
    with engine.begin() as connection:
        connection.execute(update(AccessKey).values(expires_us=YEAR_275760_US))
    engine.dispose()
    done = keys(tmp_path, "list")
    assert done.exit_code == 0, done.output
    assert "good until after the year 9999" in done.stdout


@pytest.mark.parametrize(
    "command", ["list", "rotate key_x", "revoke key_x", "limit project/p", "limit key/x"]
)
def test_only_create_makes_a_store(command: str, tmp_path: Path) -> None:
    said = refused(keys(tmp_path / "new", *command.split()), 1)
    assert f"there is no store at {tmp_path}/new/joulegate.db" in said
    assert not (tmp_path / "new").exists()


def test_a_file_that_holds_nothing_of_ours_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "joulegate.db").touch()
    assert f"there is no store at {tmp_path}/joulegate.db" in refused(keys(tmp_path, "list"), 1)
    assert keys(tmp_path, "create", "bob").exit_code == 0
    assert "bob" in keys(tmp_path, "list").stdout


def test_create_says_which_store_it_made_when_it_makes_one(tmp_path: Path) -> None:
    made = f"made the store {tmp_path}/new/joulegate.db"
    first, second = (keys(tmp_path / "new", "create", name) for name in ("first", "second"))
    assert (made in first.stderr, made in second.stderr) == (True, False)
    assert first.stdout.startswith("sk-jg-")
    assert len(first.stdout.split()) == 1


def test_a_key_that_is_not_there_cannot_be_limited_and_a_project_can(tmp_path: Path) -> None:
    assert keys(tmp_path, "create", "bob").exit_code == 0
    said = refused(keys(tmp_path, "limit", "key/nope", "--joules-per-day", "1"), 1)
    assert "there is no key nope, or it is revoked" in said
    done = keys(tmp_path, "limit", "project/nobody-yet", "--joules-per-day", "1")
    assert (done.exit_code, done.stdout) == (0, "project/nobody-yet: 1 J/day\n")


def test_limits_are_shown_in_one_readable_form(tmp_path: Path) -> None:
    limits = {"--requests-per-minute": "1200", "--joules-per-day": "500000.25", "--joules-per-month": "9e6"}
    assert keys(tmp_path, "create", "bob", *(word for pair in limits.items() for word in pair)).exit_code == 0
    shown = "1,200 requests/min, 500,000.25 J/day, 9,000,000 J/month"
    assert shown in keys(tmp_path, "list").stdout
