"""SIGKILL at random moments under load: joulegate, the process that keeps the ledger, workers, PostgreSQL.

With one process joulegate is proxy and ledger in one; with workers the main process keeps the ledger, and
each worker is a proxy. SQLite has no process of its own. Budgets are looked at where
there is one process. Killed is also what is just starting, and so replays its journal.
"""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.faults import keys as keyed
from benchmarks.faults.cases import Case, Scene, let_pass
from benchmarks.faults.keys import Keys
from benchmarks.faults.load import Answers, asking
from benchmarks.faults.system import Outcome, System, soon
from benchmarks.servers.postgres import NoPostgres, PostgresServer

TOKENS = 150
"""Of an answer: it takes long enough that some are under way whenever something is killed."""

WORKER = b"proxy.workers"

AGAIN = 0.3
"""How often joulegate is killed again while it starts."""


class Killer:
    """Kills what it is told to, at moments of its own choice, and counts."""

    def __init__(self, system: System, outcome: Outcome, seed: int) -> None:
        self._system, self._outcome = system, outcome
        self.chance = random.Random(seed)

    def wait(self) -> None:
        let_pass(self.chance.uniform(0.05, 2.0))

    def count(self, what: str) -> None:
        self._outcome.kills[what] = self._outcome.kills.get(what, 0) + 1

    def joulegate(self) -> None:
        """Now and then again while it starts: in its imports, in the replay, or just when it is ready."""
        self._system.proxy.kill()
        self.count("joulegate")

        if self.chance.random() < AGAIN:
            self._system.proxy.launch()
            let_pass(self.chance.uniform(0.5, 3.5))
            self._system.proxy.kill()
            self.count("joulegate as it starts")

    def process(self, what: str, pids: Callable[[], list[int]]) -> None:
        """One of these; none, where there is none in time."""
        found: list[int] = []

        def there() -> bool:
            found[:] = pids()
            return bool(found)

        if soon(there):
            os.kill(self.chance.choice(found), signal.SIGKILL)
            self.count(what)


def keys_sqlite(scene: Scene) -> Outcome:
    outcome = Outcome("joulegate killed; keys, SQLite")
    system = System(scene.engine, scene.directory, settings=keyed.SETTINGS)
    with system.proxy:
        with _keyed(system) as (keys, answers):
            killer = Killer(system, outcome, scene.seed)
            while outcome.killed < scene.kills:
                killer.wait()
                killer.joulegate()
                system.proxy.start()
        return _judged(system, answers, outcome, keys)


def keys_postgres(scene: Scene) -> Outcome:
    """joulegate, PostgreSQL, one of its processes, or both: joulegate then starts while its store is away."""
    outcome = Outcome("joulegate and PostgreSQL killed; keys")
    turns = (("joulegate",), ("database",), ("joulegate", "database"), ("backend",))
    with PostgresServer() as server:
        system = System(scene.engine, scene.directory, server.url(), settings=keyed.SETTINGS)
        with system.proxy:
            with _keyed(system) as (keys, answers):
                killer = Killer(system, outcome, scene.seed)
                while outcome.killed < scene.kills:
                    for victims in killer.chance.sample(turns, len(turns)):
                        killer.wait()
                        _turn(killer, system, server, victims)
            return _judged(system, answers, outcome, keys)


def _turn(killer: Killer, system: System, server: PostgresServer, victims: Sequence[str]) -> None:
    if "backend" in victims:  # the server then cuts all connections and replays its own log
        killer.process("a process of PostgreSQL", lambda: children(server.pid))
    if "database" in victims:
        server.kill()
        killer.count("PostgreSQL")
    if "joulegate" in victims:
        killer.joulegate()
        system.proxy.start()
    if "database" in victims:
        killer.wait()
        start_again(server)


def workers(scene: Scene) -> Outcome:
    """The main process, which keeps the ledger, or one of two workers."""
    outcome = Outcome("ledger or worker killed; SQLite")
    system = System(scene.engine, scene.directory, settings={"server": {"port": 0, "workers": 3}})
    with system.proxy:
        killer = Killer(system, outcome, scene.seed)
        with asking(system.proxy.url, TOKENS) as answers:
            while outcome.killed < scene.kills:
                killer.wait()
                killer.process("worker", lambda: children(system.proxy.pid, WORKER))
                killer.wait()
                system.proxy.kill()
                killer.count("ledger")
                system.proxy.start()
            let_pass(0.5)
        return _judged(system, answers, outcome, None)


@contextmanager
def _keyed(system: System) -> Iterator[tuple[Keys, Answers]]:
    """Clients with keys ask; for another moment after the block."""
    keys = keyed.make(system)
    with asking(system.proxy.url, TOKENS, keys.secrets) as answers:
        yield keys, answers
        let_pass(0.5)


def _judged(system: System, answers: Answers, outcome: Outcome, keys: Keys | None) -> Outcome:
    """Judge it as it runs, and again after an orderly stop and start, which takes up what the store has."""
    _look(system, answers, outcome, keys)
    system.proxy.stop()
    system.proxy.start()
    _look(system, answers, outcome, keys)
    return outcome


def _look(system: System, answers: Answers, outcome: Outcome, keys: Keys | None) -> None:
    system.judge(answers, outcome)
    if keys is not None:
        wrong = keyed.wrong(system, keys)
        outcome.findings += len(wrong)
        outcome.notes += wrong[:3]
        outcome.budgets = "wrong" if wrong or outcome.budgets == "wrong" else "right"


def start_again(server: PostgresServer) -> None:
    """A new one refuses while processes of the one that was killed still end. Raises NoPostgres."""

    def started() -> bool:
        try:
            server.start()
        except NoPostgres:
            return False
        return True

    if not soon(started):
        raise NoPostgres(f"it did not start again: {server.log.read_text()[-2000:]}")


def children(pid: int | None, word: bytes = b"") -> list[int]:
    """Processes that `pid` started, those with `word` in their command (proc(5))."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        found += [int(child) for child in task.read_text().split()]
    return [child for child in found if word in Path(f"/proc/{child}/cmdline").read_bytes()]


KILLS: tuple[Case, ...] = (keys_sqlite, keys_postgres, workers)
