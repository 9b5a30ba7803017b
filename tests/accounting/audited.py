"""A store and the journal that it came from, to be tampered with and audited."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from accounting.audit import Report, audit
from accounting.store.engine import connect, migrate
from accounting.store.writer import StoreWriter
from tests.accounting.test_replay import busy_story, written

Tamper = Callable[..., None]

REQUEST = "(SELECT uid FROM requests WHERE energy_uj IS NOT NULL ORDER BY started_us LIMIT 1 OFFSET 10)"
"""One from the middle."""

SHARE = f"UPDATE request_shares SET decode_uj = decode_uj + 7 WHERE uid = {REQUEST} AND gpu = 'GPU-a'"
"""Changes what it had of one GPU."""


def filled(data_dir: Path, segments: int | None = None) -> Path:
    """A journal in `data_dir`, and a store of what its first `segments` made."""
    parts = written(data_dir / "journal", busy_story())
    engine = connect(f"sqlite:///{data_dir}/joulegate.db")
    migrate(engine)
    writer = StoreWriter(engine, (data_dir / "journal" / "id").read_text().strip())
    for number, part in enumerate(parts[:segments], start=1):
        writer.put(part, number)
    assert writer.close(30)
    engine.dispose()
    return data_dir


@pytest.fixture(scope="session")
def sound_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return filled(tmp_path_factory.mktemp("sound"))


@pytest.fixture
def data_dir(sound_data: Path, tmp_path: Path) -> Path:
    """A data directory of its own: 25 requests on GPU-a and GPU-b, all settled."""
    return shutil.copytree(sound_data, tmp_path / "data")


@pytest.fixture
def tamper(data_dir: Path) -> Tamper:
    """Runs SQL on the store, as somebody who does not care."""

    def run(*statements: str) -> None:
        with closing(sqlite3.connect(data_dir / "joulegate.db", isolation_level=None)) as database:
            changed = database.total_changes
            for statement in statements:
                database.execute(statement)
            assert database.total_changes > changed, "nothing was tampered with"

    return run


def audited(data_dir: Path, *, journal: bool = False, sums: bool = False) -> Report:
    """Without `sums` nothing is said of these: no row can be changed without them."""
    engine = connect(f"sqlite:///{data_dir}/joulegate.db")
    report = audit(engine, data_dir / "journal" if journal else None)
    engine.dispose()
    if not sums:
        report.findings = [finding for finding in report.findings if finding.kind != "sums"]
        report.found["sums"] = 0
        report.clean = not report.findings
    assert report.clean == (sum(report.found.values()) == 0) == (not report.findings)
    return report


def kinds(report: Report) -> set[str]:
    return {kind for kind, count in report.found.items() if count}
