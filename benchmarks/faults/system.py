"""A simulated engine, a joulegate and its database; and what must hold once a fault is over."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from accounting.audit import Report, audit
from accounting.store.engine import connect
from accounting.store.schema import StoredRequest
from benchmarks.faults.load import Answers
from joulegate.process import ProxyProcess
from simulator.process import SimulatedEngine

SOON_S = 60.0


@dataclass
class Outcome:
    """What a fault left. `p99_ms` of clients before and during it; None where nobody was asked then.

    `broken` requests got no whole answer, most as nobody listened; `cut` are those of them that were under
    way, so that there is a record. `kills`: how often what was killed. `budgets`: "right" or "wrong", None
    where there are no keys.
    """

    name: str
    held_s: float = 0.0
    answered: int = 0
    broken: int = 0
    cut: int = 0
    refused: int = 0
    stored: int = 0
    lost: int = 0
    twice: int = 0
    findings: int = 0
    p99_ms: float | None = None
    p99_fault_ms: float | None = None
    caught_up_s: float | None = None
    kills: dict[str, int] = field(default_factory=dict)
    budgets: str | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def killed(self) -> int:
        return sum(self.kills.values())


class System:
    """`database_url` None: SQLite in joulegate's own directory. joulegate is not started here."""

    def __init__(
        self,
        engine: SimulatedEngine,
        directory: Path,
        database_url: str | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        backends = [{"id": "engine", "url": engine.url}]
        given: dict[str, Any] = {"backends": backends, "meter": {"library": str(engine.library)}}
        if database_url is not None:
            given["database_url"] = database_url
        self.proxy = ProxyProcess(directory, {**given, **(settings or {})})
        self.url = database_url or f"sqlite:///{self.proxy.data_dir}/joulegate.db"

    def stored(self) -> Counter[str]:
        """How often each request is in the store. Raises SQLAlchemyError."""
        engine = connect(self.url)
        try:
            with engine.connect() as connection:
                return Counter(connection.scalars(select(StoredRequest.request_id)))
        finally:
            engine.dispose()

    def audited(self) -> Report:
        engine = connect(self.url)
        try:
            return audit(engine, self.proxy.data_dir / "journal")
        finally:
            engine.dispose()

    def judge(self, answers: Answers, outcome: Outcome) -> Outcome:
        """Wait until all that was answered is stored; count what is lost, twice or wrong.

        It may be called again; what was found stays found.
        """
        begun_s = time.monotonic()

        def all_there() -> bool:
            try:
                return answers.whole <= self.stored().keys()
            except SQLAlchemyError:
                return False  # it is still coming up

        soon(all_there)
        took_s = time.monotonic() - begun_s
        outcome.caught_up_s = max(took_s, outcome.caught_up_s or 0.0)
        stored = self.stored()
        outcome.answered, outcome.broken = len(answers.whole), len(answers.broken)
        outcome.stored = sum(stored.values())
        outcome.refused = len(answers.refused)
        outcome.cut = len(answers.broken & stored.keys())
        outcome.lost = max(outcome.lost, len(answers.whole - stored.keys()))
        outcome.twice = max(outcome.twice, sum(count - 1 for count in stored.values()))
        report = self.audited()
        outcome.findings += sum(report.found.values()) + len(answers.refused & stored.keys())
        outcome.notes += [f"{f.kind}: {f.where}: {f.what}" for f in report.findings[:3]]
        return outcome

    def warnings(self) -> list[str]:
        told: list[str] = httpx.get(f"{self.proxy.url}/ready", timeout=5.0).json()["warnings"]
        return told


def soon(condition: Callable[[], bool]) -> bool:
    """Whether it came true in time."""
    deadline_s = time.monotonic() + SOON_S
    while not condition():
        if time.monotonic() > deadline_s:
            return False
        time.sleep(0.1)
    return True
