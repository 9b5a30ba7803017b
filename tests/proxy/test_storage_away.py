"""The database or the disk fails while requests are served: clients notice nothing, nothing is lost."""

from __future__ import annotations

import resource
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

from simulator.process import SimulatedEngine
from tests.proxy.stack import Stack, chat, metered, running, until


@pytest.fixture(scope="module")
def own(simulated: SimulatedEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running(tmp_path_factory.mktemp("away"), metered(simulated)) as one:
        yield one


@contextmanager
def no_more_bytes_on_disk(pid: int) -> Iterator[None]:
    """Every write of the process to a file fails, as on a full disk."""
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)


def test_a_locked_database_delays_records_and_nothing_else(own: Stack) -> None:
    first = own.post(chat()).headers["x-request-id"]
    own.record(first)
    own.assert_balanced()
    until(lambda: first in {record["request_id"] for record in own.records()}, "it is stored")
    before = len(own.records())
    with closing(sqlite3.connect(own.proxy.data_dir / "joulegate.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        answers = [own.post(chat(stream=n % 2 == 0)) for n in range(6)]
        assert [answer.status_code for answer in answers] == [200] * 6
        ids = {answer.headers["x-request-id"] for answer in answers}
        assert {own.record(request_id)["status"] for request_id in ids} == {"ok"}  # from memory
        assert len(own.records()) == before
        assert own.client.get("/ready").status_code == 200
        other.execute("ROLLBACK")
    stored = own.stored(before + 6)
    assert len(stored) == before + 6
    assert ids <= {record["request_id"] for record in stored}
    own.assert_balanced()


def test_a_full_disk_makes_it_not_ready_and_loses_nothing(own: Stack) -> None:
    own.record(own.post(chat()).headers["x-request-id"])
    own.assert_balanced()
    before = len(own.records())
    with no_more_bytes_on_disk(own.proxy.pid):
        ids = {own.post(chat(stream=n % 2 == 0)).headers["x-request-id"] for n in range(4)}
        until(lambda: own.client.get("/ready").status_code == 503, "not ready with a full disk")
        (reason,) = own.client.get("/ready").json()["reasons"]
        assert "journal cannot be written" in reason
        assert own.client.get("/health").status_code == 200
        assert {own.record(request_id)["status"] for request_id in ids} == {"ok"}
        assert "joulegate_journal_pending_bytes 0.0" not in own.client.get("/metrics").text
    until(lambda: own.client.get("/ready").status_code == 200, "ready again")
    stored = own.stored(before + 4)
    assert ids <= {record["request_id"] for record in stored}
    assert len({record["id"] for record in stored}) == before + 4
    own.assert_balanced()
    until(lambda: own.client.get("/ready").json()["warnings"] == [], "no warnings are left")
