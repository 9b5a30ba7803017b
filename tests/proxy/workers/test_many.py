"""Several worker processes, one ledger: every request recorded once, whoever relayed it and whoever died."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from accounting.events import RequestStarted, source_of
from accounting.journal import Segment, segment_paths
from simulator.process import SimulatedEngine
from tests.proxy.load import ids, storm
from tests.proxy.replicas import gauges
from tests.proxy.stack import Stack, chat, metered, running, until
from tests.proxy.test_load_and_crash import (
    assert_each_once,
    assert_replay_agrees,
    complete,
    stored,
    struck,
)
from tests.proxy.workers.streams import RawStream

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="ports are shared as Linux shares them")

BEGUN = re.compile(r"worker (\d+) is process (\d+)")


def several(engine: SimulatedEngine, workers: int = 3, **settings: object) -> dict[str, object]:
    return metered(engine, server={"port": 0, "workers": workers}, **settings)


def workers(stack: Stack) -> dict[int, int]:
    """Process ids of the workers by their source, as the log told them last."""
    log = stack.proxy.log.read_text()
    return {int(found[1]): int(found[2]) for found in BEGUN.finditer(log)}


def runs(pid: int) -> bool:
    """Whether there is such a process, and not only what is left of one."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rpartition(") ")[2][0] != "Z"


def sources(data_dir: Path) -> Counter[int]:
    """How many requests each process began, by the journal."""
    told: Counter[int] = Counter()
    for path in segment_paths(data_dir / "journal"):
        told.update(source_of(e.handle) for e in Segment(path).events() if isinstance(e, RequestStarted))
    return told


def assert_sound(data_dir: Path) -> None:
    """The audit finds nothing; the proxy has been stopped."""
    audited = subprocess.run(
        [sys.executable, "-m", "joulegate", "audit", str(data_dir)], capture_output=True, text=True
    )
    assert audited.returncode == 0, audited.stdout


def test_200_streams_over_three_processes_are_all_recorded_and_the_books_balance(
    simulated: SimulatedEngine, tmp_path: Path
) -> None:
    with running(tmp_path, several(simulated)) as stack:
        tokens = [40 + n % 7 for n in range(200)]
        seen = asyncio.run(storm(stack.proxy.url, tokens))
        assert ids(seen, complete=False) == set()
        assert assert_each_once(stack, seen) == {"ok": 200}
        stack.assert_balanced()
        records = stack.records()
        assert stack.books()["requests_uj"] == sum(record["energy_uj"] for record in records) > 0
        made = {record["request_id"]: record["completion_tokens"] for record in records}
        assert [made[one.request_id] for one in seen] == tokens
        assert sum(gauges(stack, "requests_total").values()) == 200
        until(lambda: gauges(stack, "backend_in_flight") == {"engine": 0}, "nothing is in flight anywhere")
    assert_replay_agrees(stack.proxy.data_dir)
    assert_sound(stack.proxy.data_dir)
    assert set(sources(stack.proxy.data_dir)) == {0, 1, 2}
    assert "Traceback" not in stack.proxy.log.read_text()


def test_a_killed_worker_loses_its_own_requests_only_and_comes_back(
    simulated: SimulatedEngine, tmp_path: Path
) -> None:
    with running(tmp_path, several(simulated)) as stack:
        killed = workers(stack)[1]
        seen = asyncio.run(struck(stack.proxy, lambda: os.kill(killed, signal.SIGKILL), long=1500))
        whole, cut = ids(seen, complete=True), ids(seen, complete=False)
        assert cut, "the worker had nothing in flight"
        until(lambda: workers(stack)[1] != killed, "the worker is started again")
        records = until(lambda: complete(stack, whole), "all that ended is stored")
        status = {record["request_id"]: record["status"] for record in records}
        errors = {record["error"] for record in records if record["status"] == "lost"}
        assert {status[request_id] for request_id in whole} == {"ok"}
        assert {status[request_id] for request_id in cut if request_id in status} <= {"lost", "ok"}
        assert errors == {"the worker process that served the request died"}
        again = asyncio.run(storm(stack.proxy.url, [4] * 40))
        assert ids(again, complete=False) == set()
        stack.assert_balanced()
        assert gauges(stack, "requests_in_flight") == {"": 0}
    begun = sources(stack.proxy.data_dir)
    assert begun[0] + begun[1] + begun[2] == sum(begun.values())
    assert_replay_agrees(stack.proxy.data_dir)
    assert_sound(stack.proxy.data_dir)


def test_workers_end_with_the_main_process_and_nothing_finished_is_lost(
    simulated: SimulatedEngine, tmp_path: Path
) -> None:
    with running(tmp_path, several(simulated)) as stack:
        proxy = stack.proxy
        theirs = workers(stack).values()
        watched = [RawStream(proxy.url, max_tokens=3_000) for _ in range(16)]
        until(lambda: all(one.read() for one in watched), "all of them have begun")
        seen = asyncio.run(struck(proxy, proxy.kill, long=1500))
        assert ids(seen, complete=True), "the storm was struck before anything had ended"
        until(lambda: not any(map(runs, theirs)), "the workers have ended")
        assert "nothing can be accounted for any more" in proxy.log.read_text()
        until(lambda: all(one.read() and one.closed for one in watched), "every connection is closed")
        told = [one.got for one in watched if not one.broken]
        assert told, "no worker had one of these"
        assert all(b"joulegate's main process is gone" in got for got in told)
        proxy.start()
        records = until(lambda: complete(stack, ids(seen, complete=True)), "finished requests are stored")
        status = {record["request_id"]: record["status"] for record in records}
        assert {status[request_id] for request_id in ids(seen, complete=True)} == {"ok"}
        assert "lost" in {status[i] for i in ids(seen, complete=False) if i in status}
        assert_each_of(records)
        stack.assert_balanced()
    assert_replay_agrees(proxy.data_dir)
    assert_sound(proxy.data_dir)


def assert_each_of(records: list[dict[str, object]]) -> None:
    found = Counter(record["request_id"] for record in records)
    assert set(found.values()) == {1}


def test_sigterm_lets_the_requests_of_all_processes_end(simulated: SimulatedEngine, tmp_path: Path) -> None:
    with running(tmp_path, several(simulated)) as stack:
        proxy, status = stack.proxy, []
        theirs = workers(stack).values()
        seen = asyncio.run(struck(proxy, lambda: status.append(proxy.stop()), long=150))
        assert status == [-signal.SIGTERM]
        assert not any(map(runs, theirs))
        refused = {one.request_id for one in seen if one.status is None}
        whole = ids(seen, complete=True)
        assert whole | refused == {one.request_id for one in seen}, "an answer was cut off"
        kept = stored(proxy.data_dir)
        assert Counter(record.request_id for record in kept.values()) == dict.fromkeys(whole, 1)
        assert {record.status for record in kept.values()} == {"ok"}
        assert_replay_agrees(proxy.data_dir)
        log = proxy.log.read_text()
        assert "Traceback" not in log
        assert "main process is gone" not in log


def test_a_ledger_that_had_workers_goes_on_without_them(simulated: SimulatedEngine, tmp_path: Path) -> None:
    with running(tmp_path, several(simulated)) as stack:
        assert ids(asyncio.run(storm(stack.proxy.url, [4] * 20)), complete=False) == set()
        stack.proxy.kill()
    with running(tmp_path, several(simulated, workers=1)) as stack:
        answer = stack.post(chat(), request_id="alone")
        assert stack.record("alone")["energy_uj"] > 0
        assert answer.status_code == 200
        stack.assert_balanced()


def test_a_port_that_somebody_has_is_refused_in_a_line(simulated: SimulatedEngine, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0), reuse_port=True) as other:
        port = other.getsockname()[1]
        command = [sys.executable, "-m", "joulegate", "serve", "--no-meter", "--backend", simulated.url]
        environment = {**os.environ, "JOULEGATE_SERVER__WORKERS": "2"}
        more = ["--port", str(port), "--data-dir", str(tmp_path)]
        done = subprocess.run([*command, *more], capture_output=True, text=True, env=environment)
    assert done.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}" in done.stderr
