"""A long answer that is not streamed, beside short streams: records come first, corrections when it ended.

Until the answer is there nobody knows that eight sequences decoded behind it, so the streams are charged too
much. REST, store, replay and audit have to agree about that, also when the proxy is killed in between.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
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

LONG = chat(max_tokens=2500, n=8)
SHORT = chat(max_tokens=100, stream=True)
SHORTS = ("short-0", "short-1", "short-2")


@contextmanager
def long_answer(stack: Stack) -> Iterator[Future[httpx.Response]]:
    """Asked for beside what is done inside; the answer is whole when `result` gives it."""
    with ThreadPoolExecutor(1) as other:
        asked = other.submit(stack.post, LONG, request_id="long")
        until(lambda: stack.find("long"), "the long request is in flight")
        yield asked


def seen_first(stack: Stack, asked: Future[httpx.Response]) -> dict[str, dict[str, Any]]:
    """The records of short streams, final while the long answer is still under way."""
    for name in SHORTS:
        assert stack.post(SHORT, request_id=name).status_code == 200
    found = {name: stack.record(name) for name in SHORTS}
    assert not asked.done(), "the long answer was too short"
    assert {record["corrected_at"] for record in found.values()} == {None}
    return found


def corrected(stack: Stack, name: str) -> dict[str, Any]:
    def now() -> dict[str, Any] | None:
        mine = (r for r in stack.records() if r["request_id"] == name)
        return next((record for record in mine if record["corrected_at"] is not None), None)

    return until(now, f"{name} is corrected in the store")


def audited(data_dir: Path) -> Report:
    engine = connect(f"sqlite:///{data_dir / 'joulegate.db'}")
    report = audit(engine, data_dir / "journal")
    engine.dispose()
    assert report.findings == []
    assert CliRunner().invoke(main, ["audit", str(data_dir)]).exit_code == 0
    return report


def assert_corrected(stack: Stack, before: dict[str, dict[str, Any]]) -> None:
    """Each short stream lost what its correction says, and REST says the same from memory and store."""
    for name, was in before.items():
        now = corrected(stack, name)
        assert now["energy_uj"] < 0.9 * was["energy_uj"]
        assert now["energy_uj"] - was["energy_uj"] == round(now["correction_joules"] * 1e6)
        assert now["energy_uj"] == sum(gpu["energy_uj"] for gpu in now["gpus"])
        assert now["state"] == was["state"] == "final"
        assert now["corrected_at"] > was["finished_at"]
        assert stack.find(name) == stack.find(now["id"]) == now
    stack.assert_balanced()


def test_what_short_streams_were_charged_too_much_is_corrected(
    simulated: SimulatedEngine, tmp_path: Path
) -> None:
    with running(tmp_path, metered(simulated)) as stack:
        with long_answer(stack) as asked:
            before = seen_first(stack, asked)
            assert asked.result().status_code == 200
        assert_corrected(stack, before)
        told = {
            sample.name: sample.value
            for family in text_string_to_metric_families(stack.client.get("/metrics").text)
            for sample in family.samples
            if sample.name == "joulegate_corrections_total" or sample.labels == {"direction": "lost"}
        }
        kept = stored(stack.proxy.data_dir).values()
        taken_uj = sum(record.correction_uj or 0 for record in kept)
        assert told["joulegate_corrections_total"] == sum(record.correction_uj is not None for record in kept)
        assert round(told["joulegate_corrected_joules_total"] * 1e6) == -taken_uj > 0
        stack.proxy.stop()
        assert_replay_agrees(stack.proxy.data_dir)
        report = audited(stack.proxy.data_dir)
        assert report.corrections == len(SHORTS)
        assert report.journal is not None
        assert report.journal.corrections == len(SHORTS)


def test_killed_between_record_and_correction_the_correction_comes_after_the_restart(
    simulated: SimulatedEngine, tmp_path: Path
) -> None:
    with running(tmp_path, metered(simulated)) as stack:
        proxy = stack.proxy
        with long_answer(stack) as asked:
            before = seen_first(stack, asked)
            assert asked.result().status_code == 200
            proxy.kill()
        journal = Replay(proxy.data_dir)
        assert not [output for output in journal.outputs() if isinstance(output, Correction)]
        assert any(owed_uj(journal.ledger.state).values())
        assert audited(proxy.data_dir).corrections == 0
        kept = {record.request_id: record for record in stored(proxy.data_dir).values()}
        assert {name: kept[name].energy_uj for name in SHORTS} == {
            name: record["energy_uj"] for name, record in before.items()
        }
        proxy.start()
        proxy.kill()  # again, before the counter has told enough to settle what was open
        proxy.start()
        assert_corrected(stack, before)
        assert stack.record("long")["status"] == "ok"
        proxy.stop()
        assert_replay_agrees(proxy.data_dir)
        assert audited(proxy.data_dir).corrections == len(SHORTS)
