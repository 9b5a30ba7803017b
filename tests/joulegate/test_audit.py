"""`joulegate audit`: what it prints, and how it ends."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from joulegate.cli import main
from joulegate.process import ProxyProcess
from simulator.process import SimulatedEngine
from tests.accounting.audited import Tamper, data_dir, sound_data, tamper
from tests.proxy.load import Seen, ids, storm
from tests.proxy.stack import chat, metered, running

__all__ = ["data_dir", "sound_data", "tamper"]


def joulegate(*arguments: str | Path) -> Result:
    done = CliRunner().invoke(main, ["audit", *map(str, arguments)], prog_name="joulegate")
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


def test_a_sound_store_ends_with_0_and_a_table(data_dir: Path) -> None:
    done = joulegate(data_dir)
    assert (done.exit_code, done.stderr) == (0, "")
    for words in ("25 requests", "130 intervals", "9 segments", "GPU-a", "(gpu-sum)", "clean"):
        assert words in done.stdout


def test_findings_end_with_1_and_are_named(data_dir: Path, tamper: Tamper) -> None:
    tamper("UPDATE books SET idle_uj = idle_uj + 1 WHERE rowid = 20")
    done = joulegate(data_dir)
    assert done.exit_code == 1
    assert "book-unbalanced: GPU-" in done.stdout
    assert "differs: GPU-" in done.stdout
    assert done.stdout.endswith("3 findings\n")


def test_many_findings_are_counted(data_dir: Path, tamper: Tamper) -> None:
    tamper("UPDATE books SET idle_uj = idle_uj + 1")
    said = joulegate(data_dir).stdout
    assert "and 220 more" in said
    assert said.endswith("262 findings\n")


def test_gaps_are_shown(data_dir: Path, tamper: Tamper) -> None:
    tamper("DELETE FROM books WHERE rowid = 5")
    assert "0.5 s: suspicious (it is shorter than any restart)" in joulegate(data_dir).stdout


@pytest.mark.parametrize("tampered", [False, True])
def test_json_is_one_object(data_dir: Path, tamper: Tamper, tampered: bool) -> None:
    if tampered:
        tamper("UPDATE requests SET state = 'provisional'")
    done = joulegate(data_dir, "--json")
    report = json.loads(done.stdout)
    assert done.exit_code == int(tampered)
    assert report["clean"] is not tampered
    assert report["found"]["request-state"] == 25 * tampered
    assert (report["requests"], report["journal"]["segments"]) == (25, 9)


def test_a_database_alone_is_audited_without_a_journal(data_dir: Path) -> None:
    done = joulegate("--database", f"sqlite:///{data_dir}/joulegate.db")
    assert done.exit_code == 0
    assert "no journal to compare with" in done.stdout
    assert "(differs)" not in done.stdout


def test_a_database_elsewhere_is_compared_with_the_journal(data_dir: Path, tmp_path: Path) -> None:
    shutil.move(data_dir / "joulegate.db", tmp_path / "else.db")
    done = joulegate(data_dir, "--database", f"sqlite:///{tmp_path}/else.db")
    assert done.exit_code == 0
    assert "9 segments" in done.stdout


def test_an_audit_changes_nothing(data_dir: Path) -> None:
    def contents() -> dict[str, bytes]:
        return {str(p): p.read_bytes() for p in data_dir.rglob("*") if p.is_file()}

    before = contents()
    joulegate(data_dir)
    assert contents() == before


def refused(done: Result) -> str:
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith("Error: ")
    assert done.stderr.count("\n") == 1
    return done.stderr


def test_what_is_not_there_cannot_be_audited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "joulegate-data is no directory" in refused(joulegate())
    assert f"there is no store at {tmp_path}/joulegate.db" in refused(joulegate(tmp_path))
    assert "there is no store at nothing.db" in refused(joulegate("--database", "sqlite:///nothing.db"))
    assert "the store's URL is not one" in refused(joulegate("--database", "nonsense"))
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_store_cannot_be_audited(data_dir: Path) -> None:
    (data_dir / "joulegate.db").write_text("my notes, and surely not a database of anything\n" * 20)
    assert "file is not a database" in refused(joulegate(data_dir))


def test_a_password_in_the_databases_url_is_not_shown() -> None:
    done = joulegate("--database", "postgresql://joulegate:secret@127.0.0.1:1/joulegate")
    assert "secret" not in refused(done)


def test_what_is_no_journal_cannot_be_compared(data_dir: Path) -> None:
    (data_dir / "journal" / "00000001.ndjson").write_text("my notes\n")
    assert "00000001.ndjson is not a journal segment" in refused(joulegate(data_dir))


async def killed_under_load(proxy: ProxyProcess) -> list[Seen]:
    """Short and long requests; the proxy is killed when short ones have ended."""
    begun = asyncio.Event()
    storming = asyncio.create_task(
        storm(proxy.url, [10 if n % 2 else 600 for n in range(16)], begun, enough=6)
    )
    await begun.wait()
    await asyncio.to_thread(proxy.kill)
    return await storming


def test_a_service_is_clean_while_it_runs_and_after_it_was_killed_under_load(
    simulated: SimulatedEngine, tmp_path: Path
) -> None:
    with running(tmp_path, metered(simulated)) as stack:
        proxy = stack.proxy
        seen = asyncio.run(killed_under_load(proxy))
        assert ids(seen, complete=False), "the storm was over before it was struck"
        killed = joulegate(proxy.data_dir)
        assert killed.exit_code == 0, killed.stdout
        proxy.start()
        request_id = stack.post(chat()).headers["x-request-id"]
        running_now = joulegate(proxy.data_dir)
        assert running_now.exit_code == 0, running_now.stdout
        stack.record(request_id)
    stopped = joulegate(proxy.data_dir, "--json")
    report = json.loads(stopped.stdout)
    assert (stopped.exit_code, report["findings"], report["gaps"]) == (0, [], [])
    assert report["requests"] == report["journal"]["requests"] > 10
    assert report["journal"]["not_stored_yet"] == 0
    assert report["gpus"][0]["requests_uj"] == report["gpus"][0]["shares_uj"] > 0
