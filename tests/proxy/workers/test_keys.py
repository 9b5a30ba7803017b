"""Keys, limits and budgets with several processes: one gate for all, whichever process a client is with."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from select import select
from time import monotonic

import pytest

from simulator.process import SimulatedEngine
from tests.proxy.access.keyed import ADMIN_SECRET, guarded, keyed, limits_of, new_key
from tests.proxy.hand_engine import HandEngine, Wire
from tests.proxy.raw_engine import whole
from tests.proxy.replicas import gauges
from tests.proxy.stack import Stack, metered, running, until
from tests.proxy.workers.processes import Answered, ask, head, owner, port_of, request, sent, unread, wire_to
from tests.proxy.workers.test_many import runs, workers

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="ports are shared as Linux shares them")

ALL = 0, 1, 2
"""Processes; the first is the main one, which decides."""

FIRST_J = 50
"""What a request is expected to cost of which nothing is known yet."""

DONE = whole(b'{"choices":[{"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":1}}')


@pytest.fixture(scope="module")
def hand() -> Iterator[HandEngine]:
    """Has the models `hand-*`, one for each test, so that none knows what those of another cost."""
    with HandEngine() as one:
        yield one


@pytest.fixture(scope="module")
def stack(
    simulated: SimulatedEngine, hand: HandEngine, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    directory = tmp_path_factory.mktemp("keyed-workers")
    settings = guarded(
        simulated,
        server={"port": 0, "workers": len(ALL)},
        access_log={"enabled": True, "path": str(directory / "access.log")},
    )
    settings["access"]["first_request_joules"] = FIRST_J
    settings["backends"][0]["models"] = ["tiny"]
    models = [f"hand-{name}" for name in ("crowd", "broke", "form", "killed", "held", "left")]
    settings["backends"].append({"id": "hand", "url": hand.url, "models": models, "gpus": []})
    with keyed(directory, settings) as one:
        yield one


def answered(wires: list[Wire]) -> list[Wire]:
    """Those on which something has come."""
    ready, _, _ = select([wire.socket for wire in wires], [], [], 0)
    return [wire for wire in wires if wire.socket in ready]


def finish(engine: Wire) -> None:
    engine.send(DONE)
    engine.close()


def alike(told: Answered) -> tuple[object, ...]:
    """An answer without what tells when it was given, or whether its connection stays."""
    passing = ("connection", "x-ratelimit-reset-joules", "x-ratelimit-reset-requests", "retry-after")
    kept = {name: "" if name in passing[1:] else value for name, value in told.headers.items()}
    kept.pop("connection", None)
    return told.status, kept, told.body


def test_a_browsers_question_needs_no_key_in_any_process(stack: Stack) -> None:
    origin = b"host: x\r\norigin: http://page.example"
    asks = origin + b"\r\naccess-control-request-method: POST"
    question = b"OPTIONS /v1/chat/completions HTTP/1.1\r\n%b\r\n\r\n"
    assert [sent(stack, source, question % asks).status for source in ALL] == [200, 200, 200]
    assert [sent(stack, source, question % origin).status for source in ALL] == [401, 401, 401]


def test_every_process_refuses_in_the_same_words(stack: Stack) -> None:
    _, narrow = new_key(stack, project="narrow", models=["tiny"], limits={"tokens_per_minute": 1_000_000})
    _, broke = new_key(stack, project="broke", limits={"joules_per_day": 0, "requests_per_minute": 60})
    _, busy = new_key(stack, project="busy", limits={"parallel_requests": 0})
    upgrade = "connection: upgrade", "upgrade: websocket"
    cases = {
        "missing": (401, "missing_api_key", request(None)),
        "wrong": (401, "invalid_api_key", request("sk-jg-wrong")),
        "admin": (403, "admin_key_refused", request(ADMIN_SECRET)),
        "model": (403, "model_not_found", request(narrow, model="hand-broke")),
        "unnamed": (403, "permission_denied", request(narrow, model=None)),
        "broke": (429, "insufficient_quota", request(broke, model="hand-broke")),
        "busy": (429, "rate_limit_exceeded", request(busy)),
    }
    before = gauges(stack, "access_rejected_total")
    for name, (status, code, data) in cases.items():
        named = data.replace(b"host: x", b"host: x\r\nx-request-id: refused " + name.encode())
        told = [sent(stack, source, named) for source in ALL]
        assert {(one.status, one.code) for one in told} == {(status, code)}, name
        assert alike(told[1]) == alike(told[2]) == alike(told[0])
    refused = gauges(stack, "access_rejected_total")
    added = {code: refused[code] - before.get(code, 0) for code in ("model_not_found", "missing_api_key")}
    assert added == {"model_not_found": 3, "missing_api_key": 3}
    for source in ALL:
        lines = "GET /v1/realtime?model=tiny HTTP/1.1", *upgrade, f"x-api-key: {broke}", "", ""
        assert sent(stack, source, "\r\n".join(lines).encode()).code == "websocket_refused"
    log = stack.proxy.directory / "access.log"

    def logged() -> list[tuple[str, int]] | None:
        found = [json.loads(line) for line in log.read_text().splitlines()]
        those = [one for one in found if one["request_id"] == "refused broke"]
        return [(one["project"], one["http_status"]) for one in those] if len(those) == len(ALL) else None

    assert until(logged, "a line for each") == [("broke", 429)] * len(ALL)
    assert stack.find("refused broke") is None
    files = [path for path in stack.proxy.data_dir.rglob("*") if path.is_file()]
    bare = narrow.removeprefix("sk-jg-").encode()
    assert [path for path in [*files, log, stack.proxy.log] if bare in path.read_bytes()] == []


def test_answers_tell_what_is_left_and_are_charged_to_the_key(stack: Stack) -> None:
    limits = {"requests_per_minute": 60, "tokens_per_minute": 100_000, "joules_per_month": 1e9}
    id, secret = new_key(stack, project="told", limits=limits)
    told = {source: ask(stack, source, secret, f"x-request-id: told {source}") for source in ALL}
    names = {name for name in told[0].headers if name.startswith("x-ratelimit-")}
    assert len(names) == 9
    for source in ALL:
        given = told[source].headers
        assert {name for name in given if name.startswith("x-ratelimit-")} == names
        assert [given[f"x-ratelimit-limit-{kind}"] for kind in ("requests", "tokens", "joules")] == [
            *("60", "100000", "1e+09")
        ]
        record = stack.record(f"told {source}")
        assert (record["project"], record["tenant"], record["api_key"]) == ("told", "told", id)
    stream = ask(stack, 1, secret, "x-request-id: told stream", stream=True)
    assert (stream.status, names <= stream.headers.keys()) == (200, True)
    ids = ["told stream", *(f"told {source}" for source in ALL)]
    spent_uj = sum(stack.record(request_id)["energy_uj"] for request_id in ids)
    until(
        lambda: spent_uj == round(limits_of(stack, f"key/{id}")["spent_joules_month"] * 1e6) > 0,
        "what is spent is what the records say",
    )
    assert limits_of(stack, f"key/{id}")["reserved_joules"] == 0


def test_a_hundred_at_once_are_let_in_as_by_one_process(stack: Stack, hand: HandEngine) -> None:
    _, secret = new_key(stack, project="crowd")
    # Of n at a time twice the sum must fit (docs/access.md): six of them.
    budget = {"joules_per_day": 2 * 6.5 * FIRST_J}
    stack.client.put("/v1/limits/project/crowd", json=budget).raise_for_status()
    wires = [Wire.to(stack.proxy.url) for _ in range(100)]
    assert set(Counter(owner(stack, wire) for wire in wires)) == set(ALL)
    for wire in wires:
        wire.send(request(secret, model="hand-crowd"))
    refused = until(lambda: found if len(found := answered(wires)) >= 94 else None, "94 are answered")
    told = [Answered(*wire.answer()) for wire in refused]
    assert Counter((one.status, one.code) for one in told) == {(429, "rate_limit_exceeded"): 94}
    view = limits_of(stack, "project/crowd")
    assert (view["requests_in_flight"], view["reserved_joules"]) == (6, 6 * FIRST_J)
    for _ in range(6):
        finish(hand.next())
    assert {wire.answer()[0] for wire in wires if wire not in refused} == {200}
    until(lambda: limits_of(stack, "project/crowd")["reserved_joules"] == 0, "nothing is reserved any more")
    for wire in wires:
        wire.close()


def test_a_rate_is_one_for_all_processes(stack: Stack) -> None:
    _, secret = new_key(stack, limits={"requests_per_minute": 3})
    began_s = monotonic()
    told = [ask(stack, n % len(ALL), secret).status for n in range(9)]
    filled = (monotonic() - began_s) * 3 / 60
    assert set(told) == {200, 429}
    assert 3 <= told.count(200) <= 3 + filled


def test_requests_at_a_time_are_those_of_all_processes(stack: Stack, hand: HandEngine) -> None:
    _, secret = new_key(stack, limits={"parallel_requests": 2})
    held = [wire_to(stack, source) for source in (1, 2)]
    for wire in held:
        wire.send(request(secret, model="hand-held"))
    engines = [hand.next() for _ in held]
    assert [ask(stack, source, secret).status for source in ALL] == [429] * 3
    held[0].close()  # a client that leaves
    until(lambda: ask(stack, 2, secret).status == 200, "there is room again")
    for engine in engines:
        finish(engine)
    assert held[1].answer()[0] == 200
    # Without an account: each is over before the next begins.
    _, one = new_key(stack, limits={"parallel_requests": 1})
    wire = wire_to(stack, 1)
    for _ in range(3):
        wire.send(request(one, path="/tokenize"))
        assert wire.answer()[0] == 200
    wire.close()


def test_a_key_is_good_and_is_revoked_in_all_processes_at_once(stack: Stack) -> None:
    id, secret = new_key(stack)
    assert [ask(stack, source, secret).status for source in ALL] == [200] * 3
    stack.client.post(f"/v1/keys/{id}", json={"models": ["other"]}).raise_for_status()
    assert [ask(stack, source, secret).status for source in ALL] == [403] * 3
    stack.client.delete(f"/v1/keys/{id}").raise_for_status()
    assert [ask(stack, source, secret).status for source in ALL] == [401] * 3


def test_much_of_a_body_is_not_taken_before_its_key_is_known(stack: Stack) -> None:
    _, secret = new_key(stack)
    body = json.dumps({"model": "tiny", "prompt": "x", "max_tokens": 1, "more": "y" * 100_000}).encode()
    expects, path = "expect: 100-continue", "/v1/completions"
    for source in ALL:
        assert sent(stack, source, head("sk-jg-wrong", 10**6)).status == 401
        assert sent(stack, source, head("sk-jg-wrong", 10**12)).status == 401
        assert sent(stack, source, head(secret, 10**12)).status == 413
        assert sent(stack, source, head("sk-jg-wrong", 10, expects)).status == 401
        wire = wire_to(stack, source)
        wire.send(head(secret, len(body), expects, path=path))
        wire.until(b"HTTP/1.1 100 Continue\r\n\r\n")
        wire.send(body)
        assert wire.answer()[0] == 200
        wire.send(head(secret, len(body), path=path) + body)
        assert wire.answer()[0] == 200
        wire.close()


def test_a_form_goes_on_as_it_comes_once_it_is_let_in(stack: Stack, hand: HandEngine) -> None:
    _, secret = new_key(stack, models=["hand-form"])
    _, other = new_key(stack, models=["other"])
    kind, path, end = "multipart/form-data; boundary=b", "/v1/audio/transcriptions", b"\r\n--b--\r\n"
    begin = b'--b\r\ncontent-disposition: form-data; name="model"\r\n\r\nhand-form\r\n'
    begin += b'--b\r\ncontent-disposition: form-data; name="file"; filename="f"\r\n\r\n'
    sound = os.urandom(300_000)
    size = len(begin) + len(sound) + len(end)
    for source in ALL:
        wire = wire_to(stack, source)
        wire.send(head(secret, size, path=path, kind=kind) + begin + sound[:100_000])
        engine = hand.next()  # it has the beginning, and the rest is still to come
        wire.send(sound[100_000:] + end)
        assert engine.until(end).endswith(begin + sound + end)
        finish(engine)
        assert wire.answer()[0] == 200
        wire.close()
        wire = wire_to(stack, source)
        wire.send(head(other, size, path=path, kind=kind) + begin + sound[:100_000])
        assert wire.answer()[0] == 403
        wire.close()
        # A model that is named once more, behind what has gone on already.
        more = b'\r\n--b\r\ncontent-disposition: form-data; name="model"\r\n\r\nhand-left'
        wire = wire_to(stack, source)
        wire.send(head(secret, size + len(more), path=path, kind=kind) + begin + sound[:100_000])
        engine = hand.next()
        wire.send(sound[100_000:] + more + end)
        assert wire.answer()[0] == 403
        assert not engine.rest().endswith(end)  # and closed
        wire.close()


def test_a_killed_worker_gives_back_what_its_requests_held(stack: Stack, hand: HandEngine) -> None:
    _, secret = new_key(stack, project="killed", limits={"joules_per_day": 1e6})
    wires = {source: wire_to(stack, source) for source in ALL}
    for source, wire in wires.items():
        wire.send(request(secret, f"x-request-id: killed {source}", model="hand-killed"))
    engines = [hand.next() for _ in wires]

    def held() -> tuple[int, float]:
        view = limits_of(stack, "project/killed")
        return view["requests_in_flight"], view["reserved_joules"]

    assert held() == (3, 3 * FIRST_J)
    until(lambda: gauges(stack, "requests_in_flight") == {"": 3}, "the main process knows of them")
    killed = workers(stack)[1]
    os.kill(killed, signal.SIGKILL)
    until(lambda: not runs(killed), "the worker is gone")
    until(lambda: held() == (2, 2 * FIRST_J), "what it held is free")
    assert stack.record("killed 1")["status"] == "lost"
    for engine in engines:
        finish(engine)
    assert [wires[source].answer()[0] for source in (0, 2)] == [200, 200]
    until(lambda: held() == (0, 0), "nothing is held")
    until(lambda: gauges(stack, "workers") == {"": len(ALL)}, "the worker is started again")
    assert ask(stack, 1, secret).status == 200


def test_a_client_that_leaves_while_the_main_process_is_asked_holds_nothing(stack: Stack) -> None:
    _, secret = new_key(stack, project="left", limits={"parallel_requests": 9, "joules_per_day": 1e6})
    wire = wire_to(stack, 1)
    port = port_of(wire)
    os.kill(stack.proxy.pid, signal.SIGSTOP)
    try:
        wire.send(request(secret, "x-request-id: left", model="hand-left"))
        until(lambda: unread(stack, port) == 0, "the worker has read it")
        wire.close()
        until(lambda: unread(stack, port) is None, "the worker has seen that the client left")
    finally:
        os.kill(stack.proxy.pid, signal.SIGCONT)
    # The worker asks in the order in which it was asked: the main process has let the first one in by now.
    assert ask(stack, 1, secret).status == 200

    def free() -> bool:
        view = limits_of(stack, "project/left")
        return (view["requests_in_flight"], view["reserved_joules"]) == (0, 0)

    until(free, "nothing is held")
    assert stack.find("left") is None


def test_a_client_that_waits_to_be_let_in_hears_that_the_main_process_is_gone(
    simulated: SimulatedEngine, tmp_path: Path
) -> None:
    with keyed(tmp_path, guarded(simulated, server={"port": 0, "workers": 2})) as stack:
        _, secret = new_key(stack)
        small, large = wire_to(stack, 1), wire_to(stack, 1)
        os.kill(stack.proxy.pid, signal.SIGSTOP)
        small.send(request(secret))
        large.send(head(secret, 10**6))
        ports = port_of(small), port_of(large)
        until(lambda: not any(unread(stack, port) for port in ports), "the worker has read them")
        stack.proxy.kill()
        for wire in (small, large):
            told = Answered(*wire.answer())
            assert (told.status, told.code) == (503, "backend_unavailable")
            assert b"main process is gone" in told.body
            wire.close()


def test_a_client_waits_no_longer_than_it_may_for_a_main_process_that_hangs(
    simulated: SimulatedEngine, tmp_path: Path
) -> None:
    settings = guarded(simulated, server={"port": 0, "workers": 2}, timeouts={"total_s": 3.0})
    with keyed(tmp_path, settings) as stack:
        _, secret = new_key(stack, limits={"parallel_requests": 1})
        small, large = wire_to(stack, 1), wire_to(stack, 1)
        os.kill(stack.proxy.pid, signal.SIGSTOP)
        try:
            small.send(request(secret))
            large.send(head(secret, 10**6))
            for wire in (small, large):
                told = Answered(*wire.answer())
                assert (told.status, told.code) == (504, "backend_timeout")
                assert b"main process did not answer within 3 s" in told.body
                wire.close()
        finally:
            os.kill(stack.proxy.pid, signal.SIGCONT)
        until(lambda: ask(stack, 1, secret).status == 200, "what the first one was let in with is free")


def test_what_is_complete_is_no_timeout_of_the_engine_while_the_main_process_hangs(
    simulated: SimulatedEngine, tmp_path: Path
) -> None:
    settings = metered(simulated, server={"port": 0, "workers": 2}, timeouts={"total_s": 2.0})
    with running(tmp_path, settings) as stack:
        wires = [wire_to(stack, 1) for _ in range(4)]
        os.kill(stack.proxy.pid, signal.SIGSTOP)
        try:
            for number, wire in enumerate(wires):
                wire.send(request(None, stream=number % 2 == 0))
            streams = wires[::2]
            for wire in streams:
                wire.until(b"data: [DONE]")
            ready, _, _ = select([wire.socket for wire in wires[1::2]], [], [], 3.0)  # beyond the timeout
            assert ready == []
        finally:
            os.kill(stack.proxy.pid, signal.SIGCONT)
        for wire in streams:
            assert b"error" not in wire.until(b"0\r\n\r\n")
        assert [wire.answer()[0] for wire in wires[1::2]] == [200, 200]
        assert gauges(stack, "backend_failures_total") == {"engine": 0.0}
