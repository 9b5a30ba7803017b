"""The relay's benchmark: the rig sees what is wrong with an answer, and missed aims are told."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

import httpx
import pytest

from benchmarks.rig import report
from benchmarks.rig.driver import Counts, Load, Rig
from benchmarks.rig.measure import Figures, gave_up, medians
from benchmarks.rig.peers import Peer, PeerMissing
from benchmarks.rig.processes import cpu_s, memory_bytes, tree
from benchmarks.rig.report import Row
from tests.proxy.raw_engine import RawEngine, chunk, stream_head, whole

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the rig is built on epoll")


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with Rig() as one:
        yield one


def played(rig: Rig, load: Load) -> Counts:
    """All requests of `load`, answered or failed."""
    rig.load(load)
    return rig.until(lambda seen: seen.ok + seen.failed >= load.requests, "all answered", 20.0)


def test_whole_answers_of_the_engine_itself_are_right(rig: Rig) -> None:
    seen = played(rig, Load(port=rig.engine_port, connections=8, requests=100))
    assert (seen.ok, seen.failed, seen.peak_open, seen.whole_us.count) == (100, 0, 8, 100)


@pytest.mark.parametrize("way", [{"interval_us": 2_000}, {"lockstep": True}], ids=["paced", "lockstep"])
def test_streams_of_the_engine_itself_are_right(rig: Rig, way: dict[str, int]) -> None:
    load = Load(port=rig.engine_port, connections=20, requests=60, tokens=10, streamed=True, **way)  # type: ignore[arg-type]
    seen = played(rig, load)
    assert (seen.ok, seen.failed, seen.chunks) == (60, 0, 600)
    assert seen.engine_open == 0


def test_a_load_is_finished_and_dropped_on_command(rig: Rig) -> None:
    rig.load(Load(port=rig.engine_port, connections=4))
    rig.until(lambda seen: seen.ok > 10, "some answers", 10.0)
    done = rig.finish(10.0)
    assert (done.open, done.started) == (0, done.ok)
    rig.load(Load(port=rig.engine_port, connections=4, tokens=9, interval_us=60_000_000, streamed=True))
    rig.until(lambda seen: seen.engine_open == 4, "streams open", 10.0)
    rig.drop()
    rig.until(lambda seen: seen.engine_open == 0, "streams hung up", 10.0)


def test_slow_connections_are_held_open_and_counted(rig: Rig) -> None:
    rig.slow(rig.engine_port, 50, ramp_s=0.0, every_s=0.01)
    rig.until(lambda seen: seen.slow_open == 50, "slow connections", 10.0)
    assert rig.slow_end().slow_open == 0


def test_the_engine_answers_what_a_proxy_asks_beside_requests(rig: Rig) -> None:
    codes = {
        path: httpx.get(rig.engine_url + path).status_code for path in ("/health", "/v1/models", "/metrics")
    }
    assert codes == {"/health": 200, "/v1/models": 200, "/metrics": 404}


def mark(number: int, place: int) -> bytes:
    return b"~%08x.%06x.%012x~" % (number, place, 1)


def event(text: bytes) -> bytes:
    return chunk(b'data: {"choices":[{"delta":{"content":"' + text + b'"}}]}\n\n')


USAGE = chunk(b'data: {"choices":[],"usage":{"total_tokens":5,"completion_tokens":2} }\n\n')
DONE = chunk(b"data: [DONE]\n\n") + chunk(b"")


def answers(number: int) -> dict[str, tuple[bytes, str]]:
    """Bytes for a stream of two tokens, and the count that they have to raise."""
    a, b, head = event(mark(number, 0)), event(mark(number, 1)), stream_head()
    return {
        "right": (head + a + b + USAGE + DONE, "ok"),
        "a chunk twice": (head + a + a + b + USAGE + DONE, "wrong"),
        "a chunk lost": (head + b + USAGE + DONE, "wrong"),
        "another's chunk": (head + a + event(mark(number + 9, 1)) + USAGE + DONE, "wrong"),
        "out of order": (head + b + a + USAGE + DONE, "wrong"),
        "no [DONE]": (head + a + b + USAGE + chunk(b""), "no_done"),
        "no usage": (head + a + b + DONE, "no_usage"),
        "wrong usage": (head + a + b + USAGE.replace(b'tokens":2}', b'tokens":3}') + DONE, "no_usage"),
        "broken off": (head + a + b + USAGE, "broken"),
        "an error": (whole(b"{}", status="503 Service Unavailable"), "bad_status"),
    }


@pytest.mark.parametrize("name", answers(0))
@pytest.mark.parametrize("cut", [False, True], ids=["whole", "byte by byte"])
def test_the_rig_tells_what_is_wrong_with_a_stream(name: str, cut: bool) -> None:
    with Rig() as fresh, RawEngine() as engine:
        said, count = answers(0)[name]
        engine.answer(*([said[k : k + 1] for k in range(len(said))] if cut else [said]))
        seen = played(
            fresh, Load(port=int(engine.url.rsplit(":", 1)[1]), requests=1, tokens=2, streamed=True)
        )
        assert (getattr(seen, count), seen.ok + seen.failed) == (1, 1), seen
        assert bool(seen.first_fault) == (count != "ok")


def test_cpu_and_memory_are_those_of_a_process_and_its_children() -> None:
    burn = "import time\nwhile time.process_time() < 0.3: pass\nheld = b'x' * 40_000_000\n"
    burn += "print(1, flush=True)\ninput()"
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {burn!r}])"
    with subprocess.Popen(
        [sys.executable, "-c", child], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"1\n"
        assert len(tree(process.pid)) == 2
        assert cpu_s(process.pid) >= 0.29
        assert memory_bytes(process.pid) > 40_000_000
        process.communicate(b"\n")


FAST = Figures(
    request_cpu_us=50.0, requests_per_s=9e3, chunk_cpu_us=14.0, chunks_per_s=4e4, added_p50_us=90.0,
    added_p99_us=200.0, idle_mib=150.0, hangs_up=True,
)  # fmt: skip
SLOW = Figures(
    request_cpu_us=90.0, requests_per_s=6e3, chunk_cpu_us=20.0, chunks_per_s=3e4, added_p50_us=200.0,
    added_p99_us=300.0, idle_mib=450.0, hangs_up=False,
)  # fmt: skip
WIRE = replace(FAST, request_cpu_us=12.0, chunk_cpu_us=10.0, requests_per_s=3e4, chunks_per_s=7e4)


def rows(ours: Figures | None, **others: Figures | None) -> list[Row]:
    found = {"joulegate": ours, **others}
    return [Row(name=name, title=name, figures=one, why="because") for name, one in found.items()]


def test_aims_are_met_by_the_fastest_that_is_near_nginx() -> None:
    assert report.misses(rows(FAST, nginx=WIRE, router=SLOW)) == []


def test_missed_aims_are_told_one_by_one() -> None:
    assert len(report.misses(rows(SLOW, router=FAST))) == 8  # seven figures, and streams that it left behind
    assert len(report.misses(rows(replace(FAST, chunk_cpu_us=15.1), nginx=WIRE))) == 1
    assert len(report.misses(rows(replace(FAST, soak_growth_mib=9.0)))) == 1
    assert report.misses(rows(replace(FAST, faults=["a wrong answer"]))) == ["a wrong answer"]
    assert report.misses(rows(replace(FAST, idle_mib=None))) == ["MiB at idle streams: not measured"]
    assert report.misses(rows(None, router=SLOW)) == ["joulegate was not measured: because"]


def test_a_missing_peer_stays_in_the_table_as_missing() -> None:
    told = rows(FAST, gateway=None)
    assert report.markdown(told).splitlines()[-1].startswith("| gateway | - |")
    assert report.remarks(told) == ["gateway is missing: because"]


def test_medians_leave_out_what_was_not_measured_and_keep_every_fault() -> None:
    rounds = [
        replace(FAST, idle_mib=None),
        replace(FAST, idle_mib=3.0, faults=["a"]),
        replace(FAST, idle_mib=5.0),
    ]
    found = medians(rounds)
    assert (found.idle_mib, found.request_cpu_us, found.faults, found.hangs_up) == (4.0, 50.0, ["a"], True)


def test_a_peer_that_cannot_be_installed_says_why(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    def install(_: object) -> None:
        raise PeerMissing("no such package")

    monkeypatch.setenv("JOULEGATE_CACHE", str(tmp_path))
    peer = Peer(name="none", version="1", install=install)
    with pytest.raises(PeerMissing, match="no such package"):
        peer.ensure()
    assert not peer.installed


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("", "litellm: only 500 of 5,000 idle streams were open after 45 s"),
        ("reset", "litellm: only 500 of 5,000 idle streams were open after 45 s: reset"),
    ],
)
def test_idle_streams_that_did_not_open_are_told_in_words(fault: str, expected: str) -> None:
    figures = Figures(faults=[gave_up(5_000, 500, 45.0, fault)])
    assert report.remarks([Row(name="litellm", title="litellm", figures=figures)]) == [expected]
