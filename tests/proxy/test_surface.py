"""What clients and operators see: ids, tenants, headers, energy objects, REST, health, metrics."""

from __future__ import annotations

import json
import threading
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from simulator.process import SimulatedEngine
from tests.proxy.raw_engine import RawEngine, chunk, stream_head, whole
from tests.proxy.stack import CHAT, Stack, chat, error_of, events, until

ASK_USAGE = {"stream": True, "stream_options": {"include_usage": True}}
ENERGY_FIELDS = [
    "energy_joules",
    "energy_kwh",
    "avg_power_watts",
    "duration_seconds",
    "attribution_method",
    "state",
    "uncertainty_joules",
    "host_joules",
    "host_method",
    "request_id",
]


# Ids and headers


def test_a_given_request_id_comes_back_once_and_names_the_record(stack: Stack) -> None:
    request_id = f"mine-{uuid4()}"
    answer = stack.post(chat(), request_id=request_id)
    assert answer.headers.get_list("x-request-id") == [request_id]
    assert answer.json()["id"] == f"chatcmpl-{request_id}"
    assert stack.ended(request_id, "ok", 200)["request_id"] == request_id


@pytest.mark.parametrize("stream", [False, True])
def test_without_one_the_proxy_makes_one_that_names_answer_and_record(stack: Stack, stream: bool) -> None:
    answer = stack.client.post(CHAT, json=chat(stream=stream))
    (request_id,) = answer.headers.get_list("x-request-id")
    assert str(UUID(request_id)) == request_id
    assert f"chatcmpl-{request_id}" in answer.text
    stack.ended(request_id, "ok", 200)


def test_one_id_used_twice_makes_two_records(stack: Stack) -> None:
    request_id = f"twice-{uuid4()}"
    first, second = (stack.post(chat(max_tokens=n), request_id=request_id) for n in (3, 5))
    assert (first.status_code, second.status_code) == (200, 200)

    def both() -> list[dict[str, Any]] | None:
        mine = [record for record in stack.records() if record["request_id"] == request_id]
        return mine if len(mine) == 2 else None

    newest, oldest = until(both, "two records")
    assert newest["id"] != oldest["id"]
    assert (newest["completion_tokens"], oldest["completion_tokens"]) == (5, 3)
    assert stack.record(request_id)["id"] == newest["id"]
    assert stack.record(oldest["id"])["completion_tokens"] == 3


def test_ids_that_need_escaping_are_found(stack: Stack) -> None:
    request_id = "a/b?c=%20 d#e"
    stack.post(chat(), request_id=request_id)
    found = stack.client.get("/v1/energy/requests/" + "a%2Fb%3Fc%3D%2520%20d%23e")
    assert found.json()["request_id"] == request_id


def test_the_tenant_is_in_the_record_and_can_be_asked_for(stack: Stack) -> None:
    tenant = f"acme-{uuid4()}"
    request_id = stack.post(chat(), x_joulegate_tenant=tenant).headers["x-request-id"]
    assert stack.record(request_id)["tenant"] == tenant
    page = until(
        lambda: stack.client.get("/v1/energy/requests", params={"tenant": tenant}).json()["data"], "stored"
    )
    assert [record["request_id"] for record in page] == [request_id]


def test_unknown_headers_and_fields_pass_unchanged_both_ways(raw: RawEngine, raw_stack: Stack) -> None:
    body = b'{ "model":"raw",  "messages": [], "vendor_field": {"b":1,"a":1.0}, "n":1e0 }'
    said = b'{"id":"c", "choices":[], "vendor": [1.50], "usage":{"prompt_tokens":1,"completion_tokens":2} }'
    raw.answer(whole(said, status="203 Sure", headers=["x-vendor: one", "x-vendor: two", "set-cookie: a=b"]))
    answer = raw_stack.post(body, CHAT + "?api-version=%7E1", x_custom="yes", authorization="Bearer k")
    got = raw.received[-1]
    assert got.line == f"POST {CHAT}?api-version=%7E1 HTTP/1.1"
    assert got.body == body
    assert (got.all("x-custom"), got.all("authorization")) == (["yes"], ["Bearer k"])
    assert answer.status_code == 203
    assert answer.headers.get_list("x-vendor") == ["one", "two"]
    assert answer.headers["set-cookie"] == "a=b"
    assert answer.content.startswith(said[: said.rindex(b"}")])
    assert {k: v for k, v in answer.json().items() if k != "energy"} == json.loads(said)


def test_a_body_that_comes_in_chunks_goes_on_whole(raw: RawEngine, raw_stack: Stack) -> None:
    raw.answer(whole(b'{"choices":[]}'))
    headers = {"content-type": "application/json"}
    answer = raw_stack.client.post(CHAT, content=iter([b'{"model":', b'"raw"}']), headers=headers)
    assert answer.status_code == 200
    got = raw.received[-1]
    assert (got.body, got.all("content-length")) == (b'{"model":"raw"}', ["15"])
    assert got.all("transfer-encoding") == []


def test_compressed_and_binary_answers_pass_unchanged(raw: RawEngine, raw_stack: Stack) -> None:
    raw.answer(whole(b"\x1f\x8b\x00\xff", "audio/mpeg"))
    answer = raw_stack.post({"model": "raw", "input": "x"}, "/v1/audio/speech")
    assert (answer.content, answer.headers["content-type"]) == (b"\x1f\x8b\x00\xff", "audio/mpeg")
    raw_stack.ended(answer.headers["x-request-id"], "ok", 200)


def test_redirects_of_the_engine_are_the_clients_to_follow(raw: RawEngine, raw_stack: Stack) -> None:
    raw.answer(whole(b"", "text/plain", "307 Elsewhere", ["location: /v1/other"]))
    answer = raw_stack.post({"model": "raw"}, "/v1/images/generations")
    assert (answer.status_code, answer.headers["location"]) == (307, "/v1/other")


# Energy in answers


def test_an_answer_has_its_energy_beside_its_usage(stack: Stack) -> None:
    answer = stack.post(chat())
    body = answer.json()
    assert list(body)[-1] == "energy"
    assert list(body["energy"]) == ENERGY_FIELDS
    assert body["energy"]["request_id"] == answer.headers["x-request-id"]
    assert body["energy"]["state"] == "provisional"
    assert int(answer.headers["content-length"]) == len(answer.content)


def test_once_the_gpu_is_known_the_first_figure_is_a_number(stack: Stack) -> None:
    stack.record(stack.post(chat()).headers["x-request-id"])
    energy = stack.post(chat()).json()["energy"]
    assert energy["energy_joules"] > 0
    assert energy["uncertainty_joules"] > 0
    assert energy["attribution_method"].endswith("/nvml-counter/simulated-gpu")


def test_the_usage_chunk_has_the_energy(stack: Stack) -> None:
    answer = stack.post(chat(**ASK_USAGE))
    *before, last = events(answer.text)
    assert list(last["energy"]) == ENERGY_FIELDS
    assert last["usage"]["completion_tokens"] == 6
    assert not any("energy" in event for event in before)
    assert answer.text.endswith("data: [DONE]\n\n")


def test_a_stream_that_did_not_ask_sees_neither_usage_nor_energy(stack: Stack) -> None:
    answer = stack.post(chat(stream=True))
    assert "energy" not in answer.text
    assert "usage" not in answer.text
    record = stack.ended(answer.headers["x-request-id"], "ok", 200)
    assert record["completion_tokens"] == 6


def test_embeddings_have_energy_too(stack: Stack) -> None:
    answer = stack.post({"model": "tiny", "input": "a joule"}, "/v1/embeddings")
    assert list(answer.json()["energy"]) == ENERGY_FIELDS
    assert stack.ended(answer.headers["x-request-id"], "ok", 200)["completion_tokens"] == 0


def test_routes_that_do_no_work_leave_no_record_and_no_energy(
    stack: Stack, simulated: SimulatedEngine
) -> None:
    body = {"model": "tiny", "prompt": "a joule"}
    answer = stack.post(body, "/tokenize")
    assert answer.content == httpx.post(f"{simulated.url}/tokenize", json=body).content
    assert stack.find(answer.headers["x-request-id"]) is None


def test_always_means_streams_that_did_not_ask_as_well(two: Stack) -> None:
    last = events(two.post(chat(stream=True)).text)[-1]
    assert last["usage"]["completion_tokens"] == 6
    assert list(last["energy"]) == ENERGY_FIELDS


def test_without_a_meter_every_energy_is_null(two: Stack) -> None:
    answer = two.post(chat())
    energy = answer.json()["energy"]
    assert (energy["energy_joules"], energy["avg_power_watts"]) == (None, None)
    record = two.record(answer.headers["x-request-id"])
    assert (record["status"], record["energy_uj"], record["energy_joules"]) == ("ok", None, None)
    assert (record["attribution_method"], record["meter"], record["completion_tokens"]) == ("none", "none", 6)


def test_never_means_not_even_streams_that_asked_and_the_environment_says_so(never: Stack) -> None:
    answer = never.post(chat(**ASK_USAGE))
    assert events(answer.text)[-1]["usage"]["completion_tokens"] == 6
    assert "energy" not in answer.text
    assert "energy" not in never.post(chat()).json()
    assert never.ended(answer.headers["x-request-id"], "ok", 200)["completion_tokens"] == 6


# Energy over REST


def test_a_request_in_flight_has_a_provisional_figure_that_becomes_final(
    raw: RawEngine, raw_stack: Stack
) -> None:
    def token(finish: str | None) -> bytes:
        choice = {"index": 0, "delta": {"content": "a"}, "finish_reason": finish}
        return chunk(b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n")

    request_id, proceed = str(uuid4()), threading.Semaphore(0)
    end = token("stop") + chunk(b"data: [DONE]\n\n") + chunk(b"")
    raw.answer(stream_head() + token(None), end, proceed=proceed)
    body = {"model": "raw", "messages": [{"role": "user", "content": "x"}], "stream": True}
    with raw_stack.client.stream("POST", CHAT, json=body, headers={"x-request-id": request_id}) as answer:
        lines = answer.iter_lines()
        assert '"a"' in next(lines)
        flying = raw_stack.find(request_id)
        assert flying is not None
        assert (flying["state"], flying["finished_at"] >= flying["started_at"]) == ("provisional", True)
        proceed.release()
        assert [line for line in lines if line][-1] == "data: [DONE]"
    record = raw_stack.record(request_id)
    assert (record["id"], record["status"]) == (flying["id"], "ok")
    assert record["energy_uj"] == record["prefill_uj"] + record["decode_uj"] > 0
    assert sum(share["energy_uj"] for share in record["gpus"]) == record["energy_uj"]


def test_an_id_that_nobody_used_is_not_found(stack: Stack) -> None:
    answer = stack.client.get("/v1/energy/requests/nobody")
    assert answer.status_code == 404
    assert "nobody" in error_of(answer)["message"]


# Models


def test_a_lone_engine_lists_its_models_itself(stack: Stack, simulated: SimulatedEngine) -> None:
    assert stack.client.get("/v1/models").content == httpx.get(f"{simulated.url}/v1/models").content


def test_several_engines_make_one_list_of_models(two: Stack) -> None:
    listed = two.client.get("/v1/models").json()
    assert sorted(model["id"] for model in listed["data"]) == ["lost", "tiny"]
    assert two.client.get("/v1/models/tiny").json()["owned_by"] == "vllm"
    missing = two.client.get("/v1/models/gpt-99")
    assert (missing.status_code, error_of(missing)["code"]) == (404, "model_not_found")


# Operations


@pytest.mark.parametrize(
    "path",
    ["/health", "/ready", "/metrics", "/v1/energy/requests", "/v1/energy/requests/nobody", "/v1/models"],
)
def test_every_answer_has_one_request_id(stack: Stack, path: str) -> None:
    """Our own routes', and a GET that is passed on."""
    answer = stack.client.get(path, headers={"x-request-id": "mine"})
    assert answer.headers.get_list("x-request-id") == ["mine"]
    assert len(stack.client.get(path).headers["x-request-id"]) >= 32


def test_health_and_ready_say_so(stack: Stack) -> None:
    assert stack.client.get("/health").json() == {"status": "ok"}
    assert stack.client.get("/ready").json() == {"status": "ready", "reasons": [], "warnings": []}


def test_one_of_several_engines_away_is_a_warning(two: Stack) -> None:
    answer = two.client.get("/ready")
    assert (answer.status_code, answer.json()["warnings"]) == (200, ["backend away does not answer"])


def test_the_api_documents_itself(stack: Stack) -> None:
    paths = stack.client.get("/openapi.json").json()["paths"]
    assert {"/health", "/ready", "/metrics", "/v1/energy/requests/{id}", "/v1/energy/books"} <= set(paths)


def samples(stack: Stack) -> dict[str, list[tuple[dict[str, str], float]]]:
    answer = stack.client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(answer.text):
        assert family.documentation, family.name
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def test_metrics_add_up_to_the_books_and_the_records(stack: Stack) -> None:
    stack.record(stack.post(chat()).headers["x-request-id"])

    def the_same() -> bool:
        books, metrics, records = stack.books(), samples(stack), stack.records()
        parts = {labels["part"]: value for labels, value in metrics["joulegate_books_joules_total"]}
        charged = sum(value for _, value in metrics["joulegate_request_energy_joules_total"])
        ended = sum(value for _, value in metrics["joulegate_requests_total"])
        return (
            all(parts[part] == pytest.approx(books[f"{part}_joules"], abs=1e-6) for part in parts)
            and set(parts) == {"measured", "requests", "idle", "unobserved", "unmeasured"}
            and charged == pytest.approx(books["requests_joules"], abs=1e-6)
            and ended == len(records)
        )

    until(the_same, "metrics and books agree")
    metrics = samples(stack)
    assert all(value == 0 for _, value in metrics["joulegate_books_unbalanced_total"])
    assert metrics["joulegate_meter_up"][0][1] == 1
    assert metrics["joulegate_backend_up"] == [({"backend": "engine"}, 1.0)]


def test_no_client_can_make_labels_of_its_own(stack: Stack) -> None:
    answers = [stack.post(chat(model=f"invented-{n}")) for n in range(3)]
    for answer in answers:
        stack.record(answer.headers["x-request-id"])
    assert "invented" not in stack.client.get("/metrics").text
