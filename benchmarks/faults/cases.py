"""The faults. Each is caused for real while clients ask; each ends with the same judgement."""

from __future__ import annotations

import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.faults.delay import Delay
from benchmarks.faults.disk import NoDisk, full, small_disk
from benchmarks.faults.load import Answers, asking
from benchmarks.faults.system import Outcome, System, soon
from benchmarks.servers.postgres import PostgresServer
from simulator.process import SimulatedEngine


@dataclass(frozen=True)
class Scene:
    """Where a case plays: the engine, an empty directory, for how long a fault lasts, how often at least
    something is killed, and what the moments are drawn from."""

    engine: SimulatedEngine
    directory: Path
    hold_s: float = 5.0
    kills: int = 17
    seed: int = 7


Case = Callable[[Scene], Outcome]


@contextmanager
def _held(answers: Answers, outcome: Outcome, scene: Scene) -> Iterator[None]:
    """Calm before, the fault inside for as long as it has to last; how long clients waited in both."""
    let_pass(scene.hold_s)
    begun_s = time.monotonic()
    yield
    ended_s = time.monotonic()
    outcome.held_s = ended_s - begun_s
    outcome.p99_ms = answers.p99_ms(0.0, begun_s)
    outcome.p99_fault_ms = answers.p99_ms(begun_s, ended_s)


def let_pass(seconds: float) -> None:
    """Let the clients ask for so long; the time is the case's, nothing is waited for."""
    time.sleep(seconds)


def database_down_at_start(scene: Scene) -> Outcome:
    outcome = Outcome("database down at the start")
    with PostgresServer() as server:
        server.stop()
        system = System(scene.engine, scene.directory, server.url())
        with system.proxy:
            with asking(system.proxy.url) as answers:
                begun_s = time.monotonic()
                let_pass(scene.hold_s)
                outcome.held_s = time.monotonic() - begun_s
                outcome.p99_fault_ms = answers.p99_ms(begun_s, time.monotonic())
                server.start()
                soon(lambda: not any("store" in line for line in system.warnings()))
                again_s = time.monotonic()
                let_pass(scene.hold_s)
                outcome.p99_ms = answers.p99_ms(again_s, time.monotonic())
            return system.judge(answers, outcome)


def database_killed(scene: Scene) -> Outcome:
    outcome = Outcome("database killed (SIGKILL), started again")
    with PostgresServer() as server:
        system = System(scene.engine, scene.directory, server.url())
        with system.proxy:
            with asking(system.proxy.url) as answers, _held(answers, outcome, scene):
                server.kill()
                let_pass(scene.hold_s)
                server.start()
            return system.judge(answers, outcome)


def database_slow(scene: Scene) -> Outcome:
    outcome = Outcome("database slow (0.3 s each way)")
    with PostgresServer() as server, Delay(server.port) as delay:
        near = server.url().replace(f":{server.port}/", f":{delay.port}/")
        system = System(scene.engine, scene.directory, near)
        with system.proxy:
            with asking(system.proxy.url) as answers, _held(answers, outcome, scene):
                delay.delay_s = 0.3
                let_pass(scene.hold_s)
                delay.delay_s = 0.0
            return system.judge(answers, outcome)


def database_full(scene: Scene) -> Outcome:
    outcome = Outcome("database's disk full (tmpfs)")
    settings = {"max_wal_size": "32MB", "min_wal_size": "32MB"}
    with small_disk(scene.directory / "disk", 150) as disk, PostgresServer(settings, disk) as server:
        system = System(scene.engine, scene.directory / "proxy", server.url())
        with system.proxy:
            with asking(system.proxy.url) as answers:
                with _held(answers, outcome, scene), full(disk):
                    let_pass(2 * scene.hold_s)
                if server.ended:  # no room for its log is a panic
                    server.start()
            return system.judge(answers, outcome)


def database_failed_over(scene: Scene) -> Outcome:
    """The standby is behind: its copying was stopped a moment before, so that it lacks what was confirmed."""
    outcome = Outcome("failed over to a server that was behind")
    with PostgresServer() as first, PostgresServer() as second:
        second.follow(first)
        both = f"host=127.0.0.1:{first.port}&host=127.0.0.1:{second.port}&target_session_attrs=read-write"
        url = first.url().replace(f"127.0.0.1:{first.port}/postgres", f"/postgres?{both}")
        system = System(scene.engine, scene.directory, url)
        with system.proxy:
            with asking(system.proxy.url) as answers:
                with _held(answers, outcome, scene):
                    second.pause_following()
                    let_pass(scene.hold_s / 2)
                    first.kill()
                    second.promote()
                    let_pass(scene.hold_s)
                outcome.notes.append("made again" if "made again" in system.proxy.log.read_text() else "")
            return system.judge(answers, outcome)


def sqlite_locked(scene: Scene) -> Outcome:
    outcome = Outcome("SQLite locked by another")
    system = System(scene.engine, scene.directory)
    with system.proxy:
        with asking(system.proxy.url) as answers:
            path = system.proxy.data_dir / "joulegate.db"
            with (
                _held(answers, outcome, scene),
                closing(sqlite3.connect(path, isolation_level=None)) as other,
            ):
                other.execute("PRAGMA busy_timeout = 10000")
                other.execute("BEGIN EXCLUSIVE")
                let_pass(scene.hold_s)
                other.execute("ROLLBACK")
        return system.judge(answers, outcome)


def disk_full(scene: Scene) -> Outcome:
    outcome = Outcome("disk of journal and SQLite full (tmpfs)")
    with small_disk(scene.directory / "disk", 30) as disk:
        system = System(scene.engine, disk)
        with system.proxy:
            with asking(system.proxy.url) as answers, _held(answers, outcome, scene), full(disk):
                let_pass(scene.hold_s)
            outcome = system.judge(answers, outcome)
        shutil.copy(system.proxy.log, scene.directory / "joulegate.log")
        return outcome


def journal_torn(scene: Scene) -> Outcome:
    outcome = Outcome("corrupt tail of the journal")
    system = System(scene.engine, scene.directory)
    with system.proxy:
        with asking(system.proxy.url) as answers:
            let_pass(scene.hold_s)
        system.proxy.kill()
        last = max((system.proxy.data_dir / "journal").glob("*.ndjson"))
        with last.open("ab") as file:
            file.write(b'{"t":"tick","t_us":17900\xff\x00\x00')
        system.proxy.start()
        system.judge(answers, outcome)
        said = system.proxy.log.read_text()
        outcome.notes.append("cut, with a warning" if "damaged at byte" in said else "no warning")
        outcome.findings += "damaged at byte" not in said
        return outcome


CASES: tuple[Case, ...] = (
    database_down_at_start,
    database_killed,
    database_slow,
    database_full,
    database_failed_over,
    sqlite_locked,
    disk_full,
    journal_torn,
)

__all__ = ["CASES", "Case", "NoDisk", "Scene", "let_pass"]
