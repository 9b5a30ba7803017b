"""Whatever goes wrong before or in the engine: a clear error, a record with its status, balanced books."""

from __future__ import annotations

import json
from pathlib import Path
from uuid import uuid4

import httpx
import openai
import pytest

from simulator.process import SimulatedEngine
from tests.proxy.conftest import MAX_BODY_MB
from tests.proxy.raw_engine import RawEngine, chunk, stream_head, whole
from tests.proxy.stack import CHAT, Stack, chat, error_of, events, metered, running, until

RAW = {"model": "raw", "messages": [{"role": "user", "content": "x"}]}
FIRST = b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}\n\n'


def spoil(engine: SimulatedEngine, kind: str) -> None:
    httpx.post(f"{engine.url}/simulator/fault", json={"kind": kind}).raise_for_status()


def new_id() -> str:
    return f"bad-{uuid4()}"


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ({"model": "gpt-99", "messages": []}, 404, "gpt-99"),
        (b'{"model": "tiny", ', 400, "JSON"),
        (b"", 400, ""),
        (chat(messages=None), 400, ""),
        (chat(max_tokens=-1), 400, ""),
    ],
    ids=["unknown model", "invalid JSON", "no body", "no messages", "bad parameter"],
)
def test_what_the_engine_refuses_it_refuses_in_its_own_words(
    stack: Stack, simulated: SimulatedEngine, body: object, status: int, says: str
) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    direct = httpx.post(simulated.url + CHAT, content=content, headers={"content-type": "application/json"})
    request_id = new_id()
    answer = stack.post(body, request_id=request_id)
    assert (answer.status_code, answer.content) == (status, direct.content)
    assert says in error_of(answer)["message"]
    record = stack.ended(request_id, "client_error", status)
    assert record["error"] == direct.json()["error"]["message"]
    assert record["energy_uj"] in (None, 0)


def test_a_stream_that_the_engine_refuses_quotes_the_clients_own_body(
    stack: Stack, simulated: SimulatedEngine
) -> None:
    body = chat(stream=True, max_tokens=0)
    request_id = new_id()
    answer = stack.post(body, request_id=request_id)
    assert answer.content == httpx.post(simulated.url + CHAT, json=body).content
    stack.ended(request_id, "client_error", 400)


def test_a_body_that_is_too_large_is_refused(stack: Stack) -> None:
    request_id = new_id()
    answer = stack.post(b" " * (int(MAX_BODY_MB * 1e6) + 1), request_id=request_id)
    assert answer.status_code == 413
    assert error_of(answer)["code"] == "request_too_large"
    assert str(int(MAX_BODY_MB * 1e6)) in error_of(answer)["message"]
    assert answer.headers["x-request-id"] == request_id
    stack.ended(request_id, "rejected", 413)
    assert stack.post(chat()).status_code == 200


def test_a_body_that_says_no_length_is_cut_off_at_the_limit(stack: Stack) -> None:
    pieces = (b" " * 10_000 for _ in range(50))
    answer = stack.client.post(CHAT, content=pieces, headers={"content-type": "application/json"})
    assert (answer.status_code, error_of(answer)["code"]) == (413, "request_too_large")


def test_with_several_backends_an_unknown_model_is_refused_here(two: Stack) -> None:
    request_id = new_id()
    answer = two.post(chat(model="gpt-99"), request_id=request_id)
    assert answer.status_code == 404
    error = error_of(answer)
    assert (error["code"], error["param"]) == ("model_not_found", "model")
    assert "`gpt-99`" in error["message"]
    record = two.record(request_id)
    assert (record["status"], record["http_status"], record["backend"]) == ("rejected", 404, None)
    assert (record["energy_uj"], record["attribution_method"]) == (0, "not-dispatched")


def test_with_several_backends_a_model_must_be_named(two: Stack) -> None:
    answer = two.post({"messages": []})
    assert answer.status_code == 400
    assert error_of(answer)["param"] == "model"


def test_an_engine_that_is_away_is_unavailable(two: Stack) -> None:
    two.post(chat(model="lost"))  # it is down once it was asked, if not before
    request_id = new_id()
    answer = two.post(chat(model="lost"), request_id=request_id)
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) >= 1
    error = error_of(answer)
    assert error["code"] == "backend_unavailable"
    assert "away" in error["message"]
    record = two.record(request_id)
    assert (record["status"], record["http_status"]) == ("rejected", 503)
    assert (record["backend"], record["error"]) == (None, error["message"])


@pytest.mark.parametrize(
    ("fault", "status"),
    [("garbage", 502), ("invalid_json", 502), ("half_chunk", 502), ("die_midstream", 502)],
)
def test_an_engine_that_fails_before_its_answer_is_whole_is_a_bad_gateway(
    stack: Stack, simulated: SimulatedEngine, fault: str, status: int
) -> None:
    spoil(simulated, fault)
    request_id = new_id()
    answer = stack.post(chat(), request_id=request_id)
    assert answer.status_code == status
    error = error_of(answer)
    assert (error["type"], error["code"]) == ("server_error", "backend_failed")
    assert "engine" in error["message"]
    assert answer.headers["x-request-id"] == request_id
    assert stack.ended(request_id, "engine_error", status)["error"] == error["message"]


def test_a_500_of_the_engine_passes_as_it_is(stack: Stack, simulated: SimulatedEngine) -> None:
    spoil(simulated, "http500")
    request_id = new_id()
    answer = stack.post(chat(), request_id=request_id)
    assert answer.status_code == 500
    assert "EngineCore" in error_of(answer)["message"]
    assert stack.ended(request_id, "engine_error", 500)["error"] == error_of(answer)["message"]


@pytest.mark.parametrize("fault", ["die_midstream", "half_chunk"])
def test_an_engine_that_dies_in_a_stream_ends_it_with_an_error_event(
    stack: Stack, simulated: SimulatedEngine, fault: str
) -> None:
    spoil(simulated, fault)
    request_id = new_id()
    answer = stack.post(chat(stream=True, max_tokens=500), request_id=request_id)
    assert answer.status_code == 200
    *tokens, last = events(answer.text)
    assert all("choices" in event for event in tokens)
    assert last["error"]["code"] == "backend_failed"
    assert "[DONE]" not in answer.text
    record = stack.ended(request_id, "engine_error", 200)
    assert record["error"] == last["error"]["message"]


def test_the_stock_client_raises_when_the_engine_dies_in_a_stream(
    stack: Stack, simulated: SimulatedEngine
) -> None:
    client = openai.OpenAI(base_url=f"{stack.proxy.url}/v1", api_key="none", max_retries=0)
    spoil(simulated, "die_midstream")
    with (
        client,
        pytest.raises(openai.APIError, match="broke off") as caught,
        client.chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": "x"}], max_tokens=500, stream=True
        ) as stream,
    ):
        list(stream)
    assert caught.value.code == "backend_failed"


def test_half_a_chunk_then_silence_ends_with_a_timeout_event(raw: RawEngine, raw_stack: Stack) -> None:
    raw.answer(stream_head() + chunk(FIRST) + b'40\r\ndata: {"id":"c","cho', end="hold")
    request_id = new_id()
    answer = raw_stack.post({**RAW, "stream": True}, request_id=request_id)
    assert answer.status_code == 200
    assert answer.text.startswith(FIRST.decode())
    assert [event.get("error", {}).get("code") for event in events(answer.text)] == [None, "backend_timeout"]
    assert (
        raw_stack.ended(request_id, "engine_error", 200)["error"]
        == events(answer.text)[-1]["error"]["message"]
    )


def test_half_a_body_then_silence_is_a_gateway_timeout(raw: RawEngine, raw_stack: Stack) -> None:
    raw.answer(whole(b'{"choices":[]}')[:-5], end="hold")
    request_id = new_id()
    answer = raw_stack.post(RAW, request_id=request_id)
    assert answer.status_code == 504
    assert error_of(answer)["code"] == "backend_timeout"
    raw_stack.ended(request_id, "engine_error", 504)


def test_an_engine_that_never_answers_is_a_gateway_timeout(raw: RawEngine, raw_stack: Stack) -> None:
    raw.answer(b"", end="hold")
    request_id = new_id()
    answer = raw_stack.post(RAW, request_id=request_id)
    assert answer.status_code == 504
    error = error_of(answer)
    assert (error["code"], "did not answer in time" in error["message"]) == ("backend_timeout", True)
    raw_stack.ended(request_id, "engine_error", 504)


def test_an_engine_that_closes_without_a_word_is_a_bad_gateway(raw: RawEngine, raw_stack: Stack) -> None:
    raw.answer(b"")
    request_id = new_id()
    answer = raw_stack.post(RAW, request_id=request_id)
    assert answer.status_code == 502
    assert "without an answer" in error_of(answer)["message"]
    raw_stack.ended(request_id, "engine_error", 502)


def test_a_body_that_is_not_json_nor_events_breaks_off_as_the_engine_did(
    raw: RawEngine, raw_stack: Stack
) -> None:
    # nobody may take half a sound file for a whole one, nor find an error event inside it
    raw.answer(stream_head("audio/mpeg") + chunk(b"half a song"))
    request_id = new_id()
    with pytest.raises(httpx.RemoteProtocolError):
        raw_stack.post({"model": "raw", "input": "x", "stream": True}, "/v1/audio/speech", request_id)
    raw_stack.ended(request_id, "engine_error", 200)


def test_a_form_that_streams_gets_its_error_as_an_event(raw: RawEngine, raw_stack: Stack) -> None:
    raw.answer(stream_head() + chunk(FIRST))
    request_id = new_id()
    answer = raw_stack.client.post(
        "/v1/audio/transcriptions",
        data={"model": "raw", "stream": "true"},
        files={"file": b"sound"},
        headers={"x-request-id": request_id},
    )
    assert events(answer.text)[-1]["error"]["code"] == "backend_failed"
    raw_stack.ended(request_id, "engine_error", 200)


def test_a_stream_that_stops_without_an_end_is_an_engine_error(raw: RawEngine, raw_stack: Stack) -> None:
    raw.answer(stream_head() + chunk(FIRST) + chunk(b""))
    request_id = new_id()
    assert raw_stack.post({**RAW, "stream": True}, request_id=request_id).text == FIRST.decode()
    record = raw_stack.ended(request_id, "engine_error", 200)
    assert record["error"] == "the stream ended without a finish_reason"


def test_a_refusal_inside_a_stream_is_the_clients_fault(raw: RawEngine, raw_stack: Stack) -> None:
    refusal = b'data: {"error":{"message":"too long","type":"BadRequestError","code":400}}\n\n'
    raw.answer(stream_head() + chunk(refusal) + chunk(b"data: [DONE]\n\n") + chunk(b""))
    request_id = new_id()
    answer = raw_stack.post({**RAW, "stream": True}, request_id=request_id)
    assert answer.content == refusal + b"data: [DONE]\n\n"
    assert raw_stack.ended(request_id, "client_error", 200)["error"] == "too long"


@pytest.mark.parametrize(("status", "asked"), [("400 Bad Request", 2), ("429 Too Many Requests", 1)])
def test_only_an_answer_that_judges_the_body_is_asked_for_in_the_clients_own_words(
    raw: RawEngine, raw_stack: Stack, status: str, asked: int
) -> None:
    before = len(raw.received)
    for _ in range(asked):
        raw.answer(whole(b'{"error":{"message":"no"}}', status=status))
    body = json.dumps({**RAW, "stream": True}).encode()
    assert raw_stack.post(body).status_code == int(status[:3])
    sent = raw.received[before:]
    assert len(sent) == asked
    assert b"include_usage" in sent[0].body
    assert sent[-1].body == body or asked == 1


def test_the_media_type_of_a_stream_has_no_case(raw: RawEngine, raw_stack: Stack) -> None:
    last = FIRST.replace(b"null", b'"stop"')
    usage = b'data: {"id":"c","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}\n\n'
    stream = stream_head("Text/Event-Stream") + chunk(FIRST + last + usage + b"data: [DONE]\n\n") + chunk(b"")
    raw.answer(stream)
    request_id = new_id()
    raw_stack.post({**RAW, "stream": True}, request_id=request_id)
    assert raw_stack.ended(request_id, "ok", 200)["completion_tokens"] == 2


def test_a_request_that_hangs_in_the_engine_ends_when_the_client_leaves(
    stack: Stack, simulated: SimulatedEngine
) -> None:
    spoil(simulated, "hang")
    request_id = new_id()
    with pytest.raises(httpx.ReadTimeout):
        stack.client.post(CHAT, json=chat(), headers={"x-request-id": request_id}, timeout=1.0)
    record = stack.record(request_id)
    assert (record["status"], record["http_status"]) == ("aborted", 499)


def test_an_engine_that_goes_down_is_unavailable_and_comes_back(tmp_path: Path) -> None:
    with (
        SimulatedEngine(tmp_path / "engine") as engine,
        running(tmp_path / "proxy", metered(engine)) as stack,
    ):
        assert stack.post(chat()).status_code == 200
        engine.kill()
        request_id = new_id()
        answer = stack.post(chat(), request_id=request_id)
        assert answer.status_code in (502, 503)  # 502: over a connection that was still open
        stack.ended(request_id, "engine_error", answer.status_code)
        again = new_id()
        answer = stack.post(chat(stream=True), request_id=again)
        assert (answer.status_code, error_of(answer)["code"]) == (503, "backend_unavailable")
        stack.ended(again, "engine_error", 503)
        until(lambda: stack.client.get("/ready").status_code == 503, "not ready without its engine")
        reasons = stack.client.get("/ready").json()["reasons"]
        assert reasons == ["backend engine does not answer"]
        assert stack.client.get("/health").status_code == 200
        engine.start()
        until(lambda: stack.client.get("/ready").status_code == 200, "ready again")
        assert stack.post(chat()).status_code == 200
        stack.assert_balanced()


@pytest.mark.parametrize("path", ["/metrics/x", "/v2/chat", "/", "/admin", "/wake_up"])
def test_what_is_not_offered_is_not_found(stack: Stack, path: str) -> None:
    answer = stack.client.post(path, json={})
    assert answer.status_code == 404
    assert error_of(answer)["type"] == "not_found_error"
    assert answer.headers["x-request-id"]


@pytest.mark.parametrize("fault", ["stack", "raw_stack"])
def test_after_failures_every_record_is_final_and_the_books_balance(
    fault: str, request: pytest.FixtureRequest, simulated: SimulatedEngine, raw: RawEngine
) -> None:
    # The proxies are those of the tests above: all that went wrong there is in these books.
    one: Stack = request.getfixturevalue(fault)
    if fault == "stack":
        spoil(simulated, "die_midstream")
        one.post(chat(stream=True), request_id="last")
    else:
        raw.answer(b"")
        one.post(RAW, request_id="last")
    one.record("last")
    until(lambda: "joulegate_requests_in_flight 0.0" in one.client.get("/metrics").text, "nothing in flight")
    one.assert_balanced()
    records = one.records()
    assert records
    assert {record["state"] for record in records} == {"final"}
    assert len({record["id"] for record in records}) == len(records)
