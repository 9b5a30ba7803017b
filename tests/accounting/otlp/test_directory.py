"""Which request a span speaks of."""

from __future__ import annotations

from contextvars import copy_context

import pytest

from accounting.events import EngineTimes, RequestFinished, RequestStarted
from accounting.otlp.directory import Directory, parse_traceparent
from accounting.otlp.spans import RequestSpan
from tests.accounting.otlp.exports import PARENT, START_US, TRACE, TRACEPARENT, started


def about(request_id: str, trace: bytes = b"", parent: bytes = b"", start_us: int = START_US) -> RequestSpan:
    return RequestSpan(request_id, trace, b"span", parent, start_us, EngineTimes(queue_ms=1.0))


def arrive(directory: Directory, event: RequestStarted, traceparent: str | None) -> None:
    """As in the proxy: every request is served by a task with a context of its own."""

    def serve() -> None:
        directory.arriving(traceparent)
        directory.event(event)

    copy_context().run(serve)


@pytest.mark.parametrize(
    "name", ["chatcmpl-r", "cmpl-r-0", "cmpl-r-12", "embd-r-0", "pooling-r-1", "score-r-0", "r"]
)
def test_a_request_is_found_by_the_id_that_the_engine_makes_of_ours(name: str) -> None:
    directory = Directory()
    directory.event(started(1, "other"))
    directory.event(started(2, "r"))
    assert directory.find(about(name)) == 2


def test_an_id_that_ends_in_a_number_is_not_taken_for_another() -> None:
    directory = Directory()
    for handle, request_id in enumerate(["r", "r-0", "r-0-0", "cmpl-r"], 1):
        directory.event(started(handle, request_id))
    assert directory.find(about("chatcmpl-r")) == 1
    assert directory.find(about("chatcmpl-r-0")) == 2
    assert directory.find(about("cmpl-r-0")) == 1
    assert directory.find(about("cmpl-r-1")) == 1
    assert directory.find(about("cmpl-r-0-0")) == 2
    assert directory.find(about("cmpl-r-0-0-3")) == 3
    assert directory.find(about("cmpl-cmpl-r-0")) == 4


@pytest.mark.parametrize("name", ["", "chatcmpl-", "chatcmpl-x", "xchatcmpl-r", "r-", "-0"])
def test_an_id_of_nobody_finds_nobody(name: str) -> None:
    directory = Directory()
    directory.event(started(1, "r"))
    assert directory.find(about(name)) is None


def test_a_refused_request_has_no_spans() -> None:
    directory = Directory()
    refused = started(1, "r")
    directory.event(
        RequestStarted(t_us=1, handle=1, uid="u", request_id="r", backend=None, model=None, route="/")
    )
    assert directory.find(about("chatcmpl-r")) is None
    directory.event(refused)
    assert directory.find(about("chatcmpl-r")) == 1


def test_of_two_requests_of_one_id_the_nearest_in_time_is_meant() -> None:
    directory = Directory()
    directory.event(started(1, "r", START_US))
    directory.event(started(2, "r", START_US + 10_000_000))
    assert directory.find(about("chatcmpl-r", start_us=START_US + 2_000)) == 1
    assert directory.find(about("chatcmpl-r", start_us=START_US + 9_999_000)) == 2


def test_of_two_requests_of_one_id_the_one_in_the_trace_is_meant() -> None:
    directory = Directory()
    arrive(directory, started(1, "r", START_US), TRACEPARENT)
    arrive(directory, started(2, "r", START_US + 10_000_000), None)
    assert directory.find(about("chatcmpl-r", TRACE, PARENT, START_US + 10_000_000)) == 1
    assert directory.find(about("chatcmpl-r", start_us=START_US + 10_000_000)) == 2


def test_a_request_is_found_by_its_trace_where_the_id_tells_nothing() -> None:
    directory = Directory()
    arrive(directory, started(1, "r"), TRACEPARENT)
    arrive(directory, started(2, "s"), None)
    assert directory.find(about("random", TRACE, PARENT)) == 1
    assert directory.find(about("random", TRACE, bytes(8))) is None
    assert directory.find(about("random")) is None


def test_requests_that_share_trace_and_parent_are_not_told_by_it() -> None:
    directory = Directory()
    arrive(directory, started(1, "r"), TRACEPARENT)
    arrive(directory, started(2, "s"), TRACEPARENT)
    assert directory.find(about("random", TRACE, PARENT)) is None
    assert directory.find(about("chatcmpl-s", TRACE, PARENT)) == 2


@pytest.mark.parametrize(
    "header", [None, "", "nonsense", TRACEPARENT[:-1], TRACEPARENT.replace("00-", "00"), "é" * 55]
)
def test_a_traceparent_that_is_none_is_none(header: str | None) -> None:
    assert parse_traceparent(header) is None


def test_a_later_version_of_traceparent_may_have_more_in_it() -> None:
    assert parse_traceparent(f" {TRACEPARENT}-more ") == (TRACE, PARENT)


def test_requests_in_flight_are_kept_and_of_the_ended_the_latest() -> None:
    directory = Directory(recent=2)
    for handle in range(1, 7):
        arrive(directory, started(handle, f"r{handle}"), TRACEPARENT)
    for handle in (2, 3, 4, 5):
        directory.event(RequestFinished(t_us=START_US, handle=handle, status="ok"))
    found = [directory.find(about(f"chatcmpl-r{handle}")) for handle in range(1, 7)]
    assert found == [1, None, None, 4, 5, 6]
    assert len(directory) == 4


def test_nothing_is_left_of_requests_that_were_forgotten() -> None:
    directory = Directory(recent=0)
    for handle in range(1, 50):
        arrive(directory, started(handle, "same"), TRACEPARENT)
        directory.event(RequestFinished(t_us=START_US, handle=handle, status="ok"))
    assert len(directory) == 0
    assert directory.find(about("chatcmpl-same", TRACE, PARENT)) is None
