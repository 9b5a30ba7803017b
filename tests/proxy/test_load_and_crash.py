"""Under load and through crashes: one final record per request, books that balance, a replay that agrees."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from accounting.records import RequestRecord
from accounting.store.engine import connect
from accounting.store.queries import RequestFilter, StoreReader
from joulegate.process import ProxyProcess
from simulator.process import SimulatedEngine
from tests.proxy.load import Seen, ids, storm
from tests.proxy.stack import Stack, metered, running, until


def replayed(data_dir: Path) -> tuple[dict[str, RequestRecord], dict[str, Any]]:
    """What `joulegate replay` prints: records by uid, and the books."""
    command = [sys.executable, "-m", "joulegate", "replay", str(data_dir)]
    done = subprocess.run(command, capture_output=True, check=True)
    *lines, last = done.stdout.splitlines()
    records = [msgspec.json.decode(line, type=RequestRecord) for line in lines]
    assert len({record.uid for record in records}) == len(records)
    return {record.uid: record for record in records}, json.loads(last)["books"]


def stored(data_dir: Path) -> dict[str, RequestRecord]:
    engine = connect(f"sqlite:///{data_dir / 'joulegate.db'}")
    page = StoreReader(engine).requests(RequestFilter(), limit=100_000)
    engine.dispose()
    assert page.next is None
    return {record.uid: record for record in page.records}


def by_gpu(record: RequestRecord) -> RequestRecord:
    return msgspec.structs.replace(record, shares=sorted(record.shares, key=lambda share: share.gpu))


def assert_replay_agrees(data_dir: Path) -> None:
    """Every field of every record, and the books to the microjoule. The proxy has been stopped."""
    again, books = replayed(data_dir)
    kept = stored(data_dir)
    assert {uid: by_gpu(record) for uid, record in again.items()} == kept
    assert books["balanced"]
    assert books["requests"] == len(kept)
    assert books["records_uj"] == sum(record.energy_uj or 0 for record in kept.values())
    assert books["owed_before_uj"] == 0
    assert books["requests_uj"] == books["records_uj"] + books["owed_after_uj"]


def assert_each_once(stack: Stack, seen: list[Seen]) -> Counter[str]:
    """Exactly one final record for each request; how many ended in which way."""
    records = stack.stored(len(seen))
    mine = {one.request_id for one in seen}
    found = Counter(record["request_id"] for record in records if record["request_id"] in mine)
    assert found == dict.fromkeys(mine, 1)
    assert {record["state"] for record in records} == {"final"}
    return Counter(record["status"] for record in records if record["request_id"] in mine)


def test_200_streams_at_once_have_one_record_each_and_the_books_balance(
    simulated: SimulatedEngine, tmp_path: Path
) -> None:
    with running(tmp_path, metered(simulated)) as stack:
        tokens = [40 + n % 7 for n in range(200)]
        seen = asyncio.run(storm(stack.proxy.url, tokens))
        assert ids(seen, complete=False) == set()
        assert assert_each_once(stack, seen) == {"ok": 200}
        stack.assert_balanced()
        books, records = stack.books(), stack.records()
        assert books["requests_uj"] == sum(record["energy_uj"] for record in records) > 0
        parts = [books[f"{part}_uj"] for part in ("requests", "idle", "unobserved", "unmeasured")]
        assert books["measured_uj"] == sum(parts)
        made = {record["request_id"]: record["completion_tokens"] for record in records}
        assert [made[one.request_id] for one in seen] == tokens
    assert_replay_agrees(stack.proxy.data_dir)


async def struck(proxy: ProxyProcess, strike: Callable[[], object], long: int) -> list[Seen]:
    """A storm of short and long requests that is struck when some of the short ones have ended."""
    begun = asyncio.Event()
    tokens = [20 if n % 2 else long for n in range(80)]
    storming = asyncio.create_task(storm(proxy.url, tokens, begun, enough=20))
    await begun.wait()
    await asyncio.to_thread(strike)
    return await storming


def test_kill_9_under_load_loses_no_finished_request_even_twice_in_a_row(
    simulated: SimulatedEngine, tmp_path: Path
) -> None:
    with running(tmp_path, metered(simulated)) as stack:
        proxy = stack.proxy
        seen: list[Seen] = []
        for _ in range(2):
            storm_seen = asyncio.run(struck(proxy, proxy.kill, long=1500))
            assert ids(storm_seen, complete=True), "the storm was struck before anything had ended"
            assert ids(storm_seen, complete=False), "the storm was over before it was struck"
            seen += storm_seen
            proxy.start()
        proxy.kill()  # again, at once: the replay of the start above may not have reached the store
        proxy.start()
        records = until(lambda: complete(stack, ids(seen, complete=True)), "finished requests are stored")
        found = Counter(record["request_id"] for record in records)
        assert set(found.values()) == {1}
        status = {record["request_id"]: record["status"] for record in records}
        assert {status[request_id] for request_id in ids(seen, complete=True)} == {"ok"}
        # A client that was cut off may have lost only the way of the last bytes to it.
        cut = [status[request_id] for request_id in ids(seen, complete=False) if request_id in status]
        assert set(cut) <= {"lost", "ok"}
        assert "lost" in cut
        assert {record["state"] for record in records} == {"final"}
        lost = [record for record in records if record["status"] == "lost"]
        assert {record["error"] for record in lost} == {"joulegate stopped while the request was in flight"}
        stack.assert_balanced()
    assert_replay_agrees(proxy.data_dir)


def complete(stack: Stack, wanted: set[str]) -> list[dict[str, Any]] | None:
    """All records, once the wanted ones are among them and nothing waits any more."""
    records = stack.records()
    lost = [record for record in records if record["status"] == "lost"]
    return records if lost and wanted <= {record["request_id"] for record in records} else None


def test_sigterm_under_load_lets_running_requests_finish(simulated: SimulatedEngine, tmp_path: Path) -> None:
    with running(tmp_path, metered(simulated)) as stack:
        proxy = stack.proxy
        status: list[int | None] = []
        seen = asyncio.run(struck(proxy, lambda: status.append(proxy.stop()), long=150))
        assert status == [-signal.SIGTERM]  # it ends by the signal it was given, once all is done
        refused = {one.request_id for one in seen if one.status is None}
        whole = ids(seen, complete=True)
        assert whole | refused == {one.request_id for one in seen}, "an answer was cut off"
        kept = stored(proxy.data_dir)
        assert Counter(record.request_id for record in kept.values()) == dict.fromkeys(whole, 1)
        assert {record.status for record in kept.values()} == {"ok"}
        assert_replay_agrees(proxy.data_dir)
        assert "Traceback" not in proxy.log.read_text()
