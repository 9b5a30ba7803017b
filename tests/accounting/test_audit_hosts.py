"""The audit proves a host's books, and that what they gave to requests is what these have of it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from accounting.audit import audit
from accounting.audit.report import Report
from accounting.events import MeterUp
from accounting.journal import segment_paths
from accounting.replay import HOSTS, Replay, owed_uj
from accounting.store.engine import connect, migrate
from accounting.store.writer import StoreWriter
from tests.accounting.ledger.story import Gpu, Power, Story, us
from tests.accounting.test_replay import written


def hosted() -> Story:
    """Requests on two GPUs of one host, whose meter comes up among them and is away for a while."""
    story = Story(
        [
            Gpu("GPU-a", Power((-10, 100), (5, 700), (20, 100))),
            Gpu("GPU-b", Power((-10, 100), (5, 500), (20, 100))),
            Gpu("host:h", Power((-10, 300), (5, 400), (20, 300)), hidden=[(9, 16)]),
        ],
        {"main": ["GPU-a", "GPU-b"], "other": ["GPU-a"]},
    )
    story.plan(6.2, MeterUp(t_us=us(6.2), gpu="host:h", device="RAPL", method="rapl"))
    for i in range(24):
        start = 5 + 0.61 * i
        backend = "other" if i % 3 == 0 else "main"
        story.request(f"r{i}", start, start + 0.2, start + 2.3, tokens=90, backend=backend)
    story.run(45.0)
    return story


def filled(directory: Path) -> Path:
    parts = written(directory / "journal", hosted())
    engine = connect(f"sqlite:///{directory}/joulegate.db")
    migrate(engine)
    writer = StoreWriter(engine, (directory / "journal" / "id").read_text().strip())
    for number, part in enumerate(parts, start=1):
        writer.put(part, number)
    assert writer.close(30)
    engine.dispose()
    return directory


def audited(directory: Path, *tampering: str, journal: bool = True) -> Report:
    with closing(sqlite3.connect(directory / "joulegate.db", isolation_level=None)) as database:
        for statement in tampering:
            assert database.execute(statement).rowcount > 0
    engine = connect(f"sqlite:///{directory}/joulegate.db")
    report = audit(engine, directory / "journal" if journal else None)
    engine.dispose()
    return report


def test_a_store_with_a_host_is_clean_and_its_sums_are_shown(tmp_path: Path) -> None:
    report = audited(filled(tmp_path))
    assert report.clean, report.findings
    host = next(sums for sums in report.gpus if sums.gpu == "host:h")
    assert host.shares_uj == host.requests_uj > 1_000_000_000
    assert host.not_covered_us > 5_000_000


@pytest.mark.parametrize("journal", [True, False])
def test_host_energy_that_a_request_has_too_much_is_found(tmp_path: Path, journal: bool) -> None:
    one = "(SELECT uid FROM requests WHERE host_uj > 0 LIMIT 1)"
    more = f"UPDATE requests SET host_uj = host_uj + 1 WHERE uid = {one}"
    report = audited(filled(tmp_path), more, journal=journal)
    assert report.found["gpu-sum"] == 1
    assert "host:h" in next(f for f in report.findings if f.kind == "gpu-sum").where
    assert not journal or report.found["differs"] == 1


def test_a_hosts_entry_out_of_balance_is_found(tmp_path: Path) -> None:
    one = "(SELECT MAX(t0_us) FROM books WHERE gpu = 'host:h' AND measured_uj > 0)"
    report = audited(
        filled(tmp_path), f"UPDATE books SET idle_uj = idle_uj + 1 WHERE gpu = 'host:h' AND t0_us = {one}"
    )
    assert report.found["book-unbalanced"] == 1


def test_host_energy_without_a_method_is_found(tmp_path: Path) -> None:
    report = audited(
        filled(tmp_path), "UPDATE requests SET host_method = NULL WHERE host_uj > 0", journal=False
    )
    assert report.found["request-state"] > 0


def test_what_hosts_still_owe_is_counted_at_every_segment(tmp_path: Path) -> None:
    filled(tmp_path)
    owing = 0
    for path in segment_paths(tmp_path / "journal"):
        part = Replay(path)
        outputs = list(part.outputs())
        books = sum(getattr(o, "requests_uj", 0) for o in outputs if getattr(o, "gpu", "") == "host:h")
        records = sum(getattr(o, "host_uj", 0) or 0 for o in outputs)
        before = owed_uj(part.begins).get(HOSTS, 0)
        after = owed_uj(part.ledger.state).get(HOSTS, 0)
        assert before + books - records == after
        owing += before > 0
    assert owing, "no segment begins while something is owed"
