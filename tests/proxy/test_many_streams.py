"""Thousands of connections at once: streams that all have to be whole, clients that never finish asking."""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.rig.driver import Counts, Load, Rig
from simulator.gpu.board import H100, Board
from simulator.gpu.library import build
from tests.proxy.stack import Stack, running

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the rig is built on epoll")

STREAMS = 5_000
SLOW = 10_000
FILES = 2 * STREAMS + 2_000
"""Descriptors that a process needs: the rig has a client's and an engine's end of each stream."""


@pytest.fixture(scope="module", autouse=True)
def _files() -> Iterator[None]:
    """As many descriptors as this machine allows, for the processes that are started here, too."""
    before, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most != resource.RLIM_INFINITY and most < FILES:
        pytest.skip(f"a process may have {most} descriptors here, {FILES} are needed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(before, FILES), most))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (before, most))


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with Rig() as one:
        yield one


@pytest.fixture
def stack(rig: Rig, tmp_path: Path) -> Iterator[Stack]:
    Board.create(tmp_path / "board", [H100]).close()
    backends = [{"id": "rig", "url": rig.engine_url}]
    with running(tmp_path, {"backends": backends, "meter": {"library": str(build(tmp_path))}}) as one:
        yield one


def port_of(stack: Stack) -> int:
    return int(stack.proxy.url.rsplit(":", 1)[1])


def whole(seen: Counts, count: int) -> bool:
    """Every answer whole, in order, its own, with its usage."""
    assert seen.failed == 0, seen
    return seen.ok == count


def test_5000_streams_at_once_are_all_whole_and_the_books_balance(rig: Rig, stack: Stack) -> None:
    tokens, interval_us = 4, 3_000_000
    load = Load(
        port=port_of(stack), connections=STREAMS, requests=STREAMS, tokens=tokens, interval_us=interval_us,
        ramp_ms=3_000, streamed=True,
    )  # fmt: skip
    rig.load(load)
    opened = rig.until(lambda seen: seen.engine_open == STREAMS, "all streams open at once", 60.0)
    assert opened.failed == 0, opened
    done = rig.until(lambda seen: whole(seen, STREAMS), "all streams whole", 90.0)
    assert done.chunks == STREAMS * tokens
    records = stack.stored(STREAMS)
    assert {record["status"] for record in records} == {"ok"}
    assert {record["completion_tokens"] for record in records} == {tokens}
    stack.assert_balanced()


def test_10000_connections_that_never_finish_asking_do_not_hurt_the_others(rig: Rig, stack: Stack) -> None:
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    slow = SLOW if most == resource.RLIM_INFINITY else min(SLOW, most - 2_000)
    rig.slow(port_of(stack), slow, ramp_s=4.0, every_s=3.0)
    try:
        rig.until(lambda seen: seen.slow_peak_open + seen.slow_failed >= slow, "all slow connections", 60.0)
        load = Load(
            port=port_of(stack), connections=50, requests=300, tokens=5, interval_us=10_000, streamed=True
        )
        rig.load(load)
        during = rig.until(lambda seen: whole(seen, 300), "the others' streams whole", 60.0)
        assert during.slow_failed == 0
        assert during.slow_open + during.slow_closed == slow
        assert during.slow_open > slow // 2, "the slow ones were gone before the others came"
    finally:
        rig.slow_end()
