"""An answer that is not streamed outlasts streams: their records come first, corrections when it has ended.

Until it has ended nobody knows how many tokens it got, nor when: the streams beside it are charged too much
or too little. REST, store, replay and audit have to agree about that, also when the proxy is killed before
the correction.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner
from prometheus_client.parser import text_string_to_metric_families

from accounting.audit import Report, audit
from accounting.records import Correction
from accounting.replay import Replay, owed_uj
from accounting.store.engine import connect
from joulegate.cli import main
from simulator.process import SimulatedEngine
from tests.proxy.stack import Stack, chat, metered, running, until
from tests.proxy.test_load_and_crash import assert_replay_agrees, stored

SEATS = 8
"""Sequences that the engine runs at once."""

STREAMS = ("stream-0", "stream-1")
STREAM = chat(max_tokens=1000, n=SEATS // len(STREAMS), stream=True)
UNSEEN = chat(max_tokens=2500, n=SEATS)


@pytest.fixture(scope="module")
def seated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimulatedEngine]:
    directory = tmp_path_factory.mktemp("seated")
    with SimulatedEngine(directory, options=["--max-num-seqs", str(SEATS)]) as engine:
        yield engine


@contextmanager
def corrected_later(
    seated: SimulatedEngine, directory: Path
) -> Iterator[tuple[Stack, dict[str, dict[str, Any]], Future[httpx.Response]]]:
    """A proxy that hears nothing of its engine but answers; the streams' records, final while the unseen
    answer is under way; and that answer."""
    settings = metered(seated, engine_metrics={"enabled": False})
    with running(directory, settings) as stack, ThreadPoolExecutor(len(STREAMS) + 1) as clients:
        streams = [clients.submit(stack.post, STREAM, request_id=name) for name in STREAMS]
        for name in STREAMS:
            until(partial(answering, stack, name), f"{name} has a seat")
        unseen = clients.submit(stack.post, UNSEEN, request_id="unseen")
        assert [stream.result().status_code for stream in streams] == [200] * len(STREAMS)
        before = {name: stack.record(name) for name in STREAMS}
        assert not unseen.done(), "the answer was too short"
        assert {record["corrected_at"] for record in before.values()} == {None}
        yield stack, before, unseen


def answering(stack: Stack, name: str) -> bool:
    record = stack.find(name)
    return record is not None and record["first_token_at"] is not None


def assert_corrected(stack: Stack, before: dict[str, dict[str, Any]]) -> None:
    """Each stream's joules changed by what its correction says, by much; memory and store say the same."""
    for name, was in before.items():
        now = until(partial(corrected, stack, name), f"{name} is corrected in the store")
        assert abs(now["energy_uj"] - was["energy_uj"]) > 0.1 * was["energy_uj"]
        assert now["energy_uj"] - was["energy_uj"] == round(now["correction_joules"] * 1e6)
        assert now["energy_uj"] == sum(gpu["energy_uj"] for gpu in now["gpus"])
        assert now["state"] == was["state"] == "final"
        assert now["corrected_at"] > was["finished_at"]
        assert stack.find(name) == stack.find(now["id"]) == now
    stack.assert_balanced()


def corrected(stack: Stack, name: str) -> dict[str, Any] | None:
    mine = (record for record in stack.records() if record["request_id"] == name)
    return next((record for record in mine if record["corrected_at"] is not None), None)


def audited(data_dir: Path) -> Report:
    engine = connect(f"sqlite:///{data_dir / 'joulegate.db'}")
    report = audit(engine, data_dir / "journal")
    engine.dispose()
    assert report.findings == []
    assert CliRunner().invoke(main, ["audit", str(data_dir)]).exit_code == 0
    return report


def test_what_streams_were_charged_wrongly_is_corrected(seated: SimulatedEngine, tmp_path: Path) -> None:
    with corrected_later(seated, tmp_path) as (stack, before, unseen):
        assert unseen.result().status_code == 200
        assert_corrected(stack, before)
        told = {
            sample.labels.get("direction", "count"): sample.value
            for family in text_string_to_metric_families(stack.client.get("/metrics").text)
            for sample in family.samples
            if sample.name in ("joulegate_corrections_total", "joulegate_corrected_joules_total")
        }
        kept = stored(stack.proxy.data_dir).values()
        changes_j = [record.correction_uj / 1e6 for record in kept if record.correction_uj is not None]
        assert told["count"] == len(changes_j) == len(STREAMS)
        assert told.get("gained", 0.0) - told.get("lost", 0.0) == pytest.approx(sum(changes_j))
        stack.proxy.stop()
        assert_replay_agrees(stack.proxy.data_dir)
        report = audited(stack.proxy.data_dir)
        assert report.journal is not None
        assert report.corrections == report.journal.corrections == len(STREAMS)


def test_killed_between_record_and_correction_the_correction_comes_after_the_restart(
    seated: SimulatedEngine, tmp_path: Path
) -> None:
    with corrected_later(seated, tmp_path) as (stack, before, unseen):
        proxy = stack.proxy
        assert unseen.result().status_code == 200
        proxy.kill()
        journal = Replay(proxy.data_dir)
        assert not [output for output in journal.outputs() if isinstance(output, Correction)]
        assert any(owed_uj(journal.ledger.state).values())
        assert audited(proxy.data_dir).corrections == 0
        kept = {record.request_id: record.energy_uj for record in stored(proxy.data_dir).values()}
        assert kept == {name: record["energy_uj"] for name, record in before.items()}
        proxy.start()
        proxy.kill()  # again, before the counter has told enough to settle what was open
        proxy.start()
        assert_corrected(stack, before)
        assert stack.record("unseen")["status"] == "ok"
        proxy.stop()
        assert_replay_agrees(proxy.data_dir)
        assert audited(proxy.data_dir).corrections == len(STREAMS)
