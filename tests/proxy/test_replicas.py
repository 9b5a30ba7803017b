"""Two engines of one model behind a real proxy: who gets what, and what happens when one fails."""

from __future__ import annotations

import socket
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from simulator.process import SimulatedEngine
from tests.proxy.raw_engine import RawEngine, whole
from tests.proxy.replicas import all_up, backends_of, engines, gauges, named
from tests.proxy.stack import CHAT, Stack, chat, error_of, running, until

NO_METER = {"meter": {"source": "none"}}
HEALTH = {"interval_s": 0.3, "interval_down_s": 0.2, "failures": 3, "ejected_s": 1.0}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[SimulatedEngine]]:
    with engines(tmp_path_factory.mktemp("pair"), 2) as two:
        yield two


@pytest.fixture(scope="module")
def replicas(pair: list[SimulatedEngine], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    settings = {"backends": named(pair), "health": HEALTH, **NO_METER}
    with running(tmp_path_factory.mktemp("replicas"), settings) as stack:
        all_up(stack, 2)
        yield stack


def spoil(engine: SimulatedEngine, kind: str, count: int) -> None:
    httpx.post(f"{engine.url}/simulator/fault", json={"kind": kind, "count": count}).raise_for_status()


def ids(count: int) -> list[str]:
    return [str(uuid4()) for _ in range(count)]


def record_of(stack: Stack, request_id: str) -> dict[str, object]:
    """The one record of a request."""

    def final() -> dict[str, object] | None:
        found = [record for record in stack.records() if record["request_id"] == request_id]
        assert len(found) <= 1
        return found[0] if found and found[0]["state"] == "final" else None

    return until(final, f"the record of {request_id}")


@pytest.mark.parametrize("path", [CHAT, "/v1/models", "/v1/videos/x"])
def test_a_browsers_question_goes_to_any_of_them(replicas: Stack, path: str) -> None:
    asks = {"origin": "http://page.example", "access-control-request-method": "POST"}
    answer = replicas.client.options(path, headers=asks)
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, "*")


def test_a_page_may_read_answers_whoever_made_them(replicas: Stack) -> None:
    page = {"origin": "http://page.example"}
    ours = [replicas.client.get(f"/v1/models{one}", headers=page) for one in ("", "/tiny", "/none")]
    ours.append(replicas.client.post(CHAT, json=chat(model="none"), headers=page))
    ours.append(replicas.client.post(CHAT, content=b"{", headers=page))
    theirs = replicas.client.post(CHAT, json=chat(max_tokens=1), headers=page)
    assert [one.status_code for one in ours] == [200, 200, 404, 404, 400]
    assert theirs.status_code == 200
    for answer in (*ours, theirs):
        assert answer.headers.get_list("access-control-allow-origin") == ["*"]


def test_a_session_stays_on_one_replica_and_sessions_spread(replicas: Stack) -> None:
    sessions = [f"session-{n}" for n in range(8)]
    sent = {session: ids(3) for session in sessions}
    for turn in range(3):
        for session in sessions:
            answer = replicas.post(chat(max_tokens=1), request_id=sent[session][turn], x_session_id=session)
            assert answer.status_code == 200
    homes = [set(backends_of(replicas, sent[session])) for session in sessions]
    assert [len(home) for home in homes] == [1] * len(sessions)
    assert set.union(*homes) == {"a", "b"}


def test_long_streams_at_work_send_the_next_request_to_the_other(replicas: Stack) -> None:
    first, second = ids(2)
    with replicas.client.stream(
        "POST", CHAT, json=chat(max_tokens=1000, stream=True), headers={"x-request-id": first}
    ) as stream:
        pieces = stream.iter_raw()  # held, as httpx closes the stream with it
        next(pieces)
        assert sum(gauges(replicas, "backend_work_tokens").values()) > 1000
        replicas.post(chat(max_tokens=1), request_id=second)
    until(lambda: not any(gauges(replicas, "backend_in_flight").values()), "all have ended")
    assert gauges(replicas, "backend_work_tokens") == {"a": 0, "b": 0}
    assert len(set(backends_of(replicas, [first, second]))) == 2


def test_an_engine_that_answers_500_is_ejected_and_comes_back(
    replicas: Stack, pair: list[SimulatedEngine]
) -> None:
    before = gauges(replicas, "backend_ejections_total")["a"]
    spoil(pair[0], "http500", 3)
    statuses: Counter[int] = Counter()

    def ejected() -> bool:
        statuses[replicas.post(chat(max_tokens=1)).status_code] += 1
        return gauges(replicas, "backend_ejections_total")["a"] > before

    until(ejected, "a is ejected")
    assert statuses[500] == 3  # a 500 is the engine's answer: it is not tried again
    warnings = replicas.client.get("/ready").json()["warnings"]
    assert "backend a fails requests and is left out" in warnings
    assert [replicas.post(chat(max_tokens=1)).status_code for _ in range(4)] == [200] * 4

    def back() -> bool:
        assert replicas.post(chat(max_tokens=1)).status_code == 200
        return gauges(replicas, "backend_ejected")["a"] == 0

    until(back, "a trial went well")


def test_an_engine_that_is_killed_costs_its_clients_nothing(
    replicas: Stack, pair: list[SimulatedEngine]
) -> None:
    pair[0].kill()
    sent = ids(6)
    assert [replicas.post(chat(max_tokens=2), request_id=one).status_code for one in sent] == [200] * 6
    assert set(backends_of(replicas, sent)) == {"b"}
    until(lambda: gauges(replicas, "backend_up")["a"] == 0, "a is seen to be down")
    pair[0].start()
    all_up(replicas, 2)
    until(
        lambda: (
            replicas.post(chat(max_tokens=1), request_id=(one := ids(1)[0])).status_code == 200
            and backends_of(replicas, [one]) == ["a"]
        ),
        "a gets requests again",
    )


def test_without_any_replica_the_answer_is_503_with_a_time_to_come_back(
    tmp_path: Path, pair: list[SimulatedEngine]
) -> None:
    with engines(tmp_path / "own", 2) as own:
        settings = {"backends": named(own), "health": HEALTH, **NO_METER}
        with running(tmp_path / "proxy", settings) as stack:
            all_up(stack, 2)
            for engine in own:
                engine.kill()
            request_id = ids(1)[0]
            answer = stack.post(chat(), request_id=request_id)
            assert answer.status_code == 503
            assert error_of(answer)["code"] == "backend_unavailable"
            assert int(answer.headers["retry-after"]) >= 1
            assert stack.client.get("/ready").status_code == 503


def test_a_request_that_a_busy_replica_refused_goes_to_the_other_and_has_one_record(
    simulated: SimulatedEngine, tmp_path: Path
) -> None:
    with RawEngine() as raw:
        backends = [
            {"id": "a-full", "url": raw.url, "models": ["tiny"]},
            {"id": "b", "url": simulated.url, "models": ["tiny"]},
        ]
        with running(tmp_path, {"backends": backends, **NO_METER}) as stack:
            all_up(stack, 2)
            full = whole(b'{"error":{"message":"full"}}', status="429 Too Many Requests")
            raw.answer(full)
            request_id = ids(1)[0]
            answer = until_it_hits(stack, raw, request_id)
            assert answer.status_code == 200
            record = record_of(stack, request_id)
            assert (record["backend"], record["http_status"], record["status"]) == ("b", 200, "ok")
            assert gauges(stack, "backend_retries_total")["a-full"] == 1
            assert gauges(stack, "backend_failures_total")["a-full"] == 0


def until_it_hits(stack: Stack, raw: RawEngine, request_id: str) -> httpx.Response:
    """Sends requests until the raw engine, whose work is the least, has had one; that one's answer."""
    answer = stack.post(chat(max_tokens=1), request_id=request_id)
    assert raw.received, "the idle replica that comes first gets the first request"
    return answer


def test_a_connection_closed_before_a_byte_is_tried_on_the_other(
    simulated: SimulatedEngine, tmp_path: Path
) -> None:
    with RawEngine() as raw:
        backends = [
            {"id": "a", "url": raw.url, "models": ["tiny"]},
            {"id": "b", "url": simulated.url, "models": ["tiny"]},
        ]
        with running(tmp_path, {"backends": backends, **NO_METER}) as stack:
            all_up(stack, 2)
            raw.answer(b"")
            assert until_it_hits(stack, raw, ids(1)[0]).status_code == 200
            assert gauges(stack, "backend_failures_total")["a"] == 1


def test_nothing_is_tried_again_once_a_byte_of_the_answer_came(
    simulated: SimulatedEngine, tmp_path: Path
) -> None:
    with RawEngine() as raw:
        backends = [
            {"id": "a", "url": raw.url, "models": ["tiny"]},
            {"id": "b", "url": simulated.url, "models": ["tiny"]},
        ]
        with running(tmp_path, {"backends": backends, **NO_METER}) as stack:
            all_up(stack, 2)
            raw.answer(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\ncontent-type: application/json\r\n\r\n{")
            assert until_it_hits(stack, raw, ids(1)[0]).status_code == 502
            assert sum(gauges(stack, "backend_retries_total").values()) == 0


def test_an_engine_that_accepts_and_never_answers_is_found_out_by_its_health(
    simulated: SimulatedEngine, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        held: list[socket.socket] = []
        stop = threading.Event()

        def accept() -> None:
            silent.settimeout(0.2)
            while not stop.is_set():
                try:
                    held.append(silent.accept()[0])
                except TimeoutError:
                    continue

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            url = f"http://127.0.0.1:{silent.getsockname()[1]}"
            backends = [
                {"id": "a", "url": url, "models": ["tiny"]},
                {"id": "b", "url": simulated.url, "models": ["tiny"]},
            ]
            health = {**HEALTH, "timeout_s": 0.3, "looks": 2}
            with running(tmp_path, {"backends": backends, "health": health, **NO_METER}) as stack:
                until(lambda: "backend a does not answer at" in stack.proxy.log.read_text(), "it is down")
                assert [stack.post(chat(max_tokens=1)).status_code for _ in range(4)] == [200] * 4
        finally:
            stop.set()
            thread.join()
            for connection in held:
                connection.close()
