"""A real proxy that asks for keys, as its clients, its admin and an intruder see it."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from fastapi.testclient import TestClient

from accounting.access.keys import Limits
from accounting.access.store import AccessStore
from accounting.store.engine import connect
from proxy.app import create_app
from proxy.settings import Settings
from simulator.process import SimulatedEngine
from tests.proxy.access.keyed import (
    ADMIN_SECRET,
    ENGINE_SECRET,
    asked,
    bearer,
    guarded,
    keyed,
    new_key,
)
from tests.proxy.stack import CHAT, Stack, chat, error_of, until


@pytest.fixture(scope="module")
def stack(simulated: SimulatedEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with keyed(tmp_path_factory.mktemp("access"), guarded(simulated)) as one:
        yield one


EVERYTHING = [
    ("POST", CHAT),
    ("POST", "/v1/something/new"),
    ("GET", "/v1/models"),
    ("DELETE", "/v1/files/x"),
    ("POST", "/tokenize"),
    ("GET", "/version"),
    ("GET", "/v1/energy/requests"),
    ("GET", "/v1/energy/requests/x"),
    ("GET", "/v1/energy/books"),
    ("GET", "/v1/organization/costs?start_time=1"),
    ("GET", "/v1/keys"),
    ("POST", "/v1/keys"),
    ("GET", "/v1/limits"),
    ("GET", "/v1/videos"),
    ("GET", "/metrics"),
    ("GET", "/v1/access"),
    ("GET", "/v1/energy/points"),
    ("GET", "/v1/energy/flows"),
    ("GET", "/pages"),
    ("GET", "/nothing/at/all"),
]


@pytest.mark.parametrize(("method", "path"), EVERYTHING)
@pytest.mark.parametrize("headers", [{}, bearer("sk-jg-wrong"), {"x-api-key": "wrong"}])
def test_nothing_is_to_be_had_without_a_key(
    stack: Stack, method: str, path: str, headers: dict[str, str]
) -> None:
    answer = httpx.request(method, stack.proxy.url + path, headers=headers, json=chat())
    assert answer.status_code == 401
    error = error_of(answer)
    assert error["code"] == ("invalid_api_key" if headers else "missing_api_key")
    assert answer.headers["www-authenticate"].startswith("Bearer ")
    assert answer.headers["x-request-id"]


def test_a_websocket_needs_a_key_as_well(stack: Stack) -> None:
    host, port = stack.proxy.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as wire:
        wire.sendall(
            b"GET /v1/realtime HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
        )
        assert wire.recv(100).startswith(b"HTTP/1.1 401 ")


def test_health_and_the_document_are_open(stack: Stack) -> None:
    for path in ("/health", "/ready", "/openapi.json", "/page/", "/page/main.js"):
        assert httpx.get(stack.proxy.url + path).status_code == 200


ASKS = {"origin": "http://page.example", "access-control-request-method": "POST"}


def test_a_browsers_question_needs_no_key_and_nothing_else_does_without(stack: Stack) -> None:
    for path in (CHAT, "/v1/models"):
        answer = httpx.options(stack.proxy.url + path, headers=ASKS)
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, "*")
        assert httpx.options(stack.proxy.url + path).status_code == 401
        assert httpx.request("OPTIONS", stack.proxy.url + path, headers=ASKS, json={}).status_code == 401
        assert httpx.request("POST", stack.proxy.url + path, headers=ASKS).status_code == 401
    assert httpx.options(stack.proxy.url + "/v1/energy/requests", headers=ASKS).status_code == 401


PAGE_MAY_READ = "access-control-allow-origin"


@pytest.mark.parametrize("path", [CHAT, "/v1/models", "/v1/videos/x", "/v1/images/generations"])
def test_a_page_may_read_why_it_is_refused(stack: Stack, path: str) -> None:
    method = "POST" if path in (CHAT, "/v1/images/generations") else "GET"
    for given in ({"x-api-key": "sk-jg-wrong"}, {}):
        refused = httpx.request(method, stack.proxy.url + path, headers={**given, "origin": ASKS["origin"]})
        assert (refused.status_code, refused.headers.get_list(PAGE_MAY_READ)) == (401, ["*"])
        assert PAGE_MAY_READ not in httpx.request(method, stack.proxy.url + path, headers=given).headers


def test_no_other_page_may_read_joulegates_own_routes(stack: Stack) -> None:
    for path in ("/v1/energy/requests", "/v1/keys", "/metrics", "/health", "/openapi.json", "/nowhere"):
        assert PAGE_MAY_READ not in stack.client.get(path, headers={"origin": ASKS["origin"]}).headers


def test_a_large_body_is_not_taken_from_a_stranger(stack: Stack) -> None:
    host, port = stack.proxy.url.removeprefix("http://").split(":")
    head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: 50000000\r\nexpect: 100-continue\r\n\r\n"
    with socket.create_connection((host, int(port)), timeout=10) as wire:
        wire.sendall(head.encode())
        assert wire.recv(100).startswith(b"HTTP/1.1 401 ")


def test_openais_client_gets_its_answers_and_its_own_errors(stack: Stack) -> None:
    _, secret = new_key(stack, project="openai", models=["tiny"], limits={"requests_per_minute": 2})
    base = f"{stack.proxy.url}/v1"
    messages: list[Any] = [{"role": "user", "content": "hello"}]

    def ask(key: str, model: str = "tiny") -> Any:
        client = openai.OpenAI(api_key=key, base_url=base, max_retries=0)
        return client.chat.completions.with_raw_response.create(model=model, messages=messages, max_tokens=4)

    first = ask(secret)
    assert first.parse().choices[0].message.content
    assert first.headers["x-ratelimit-limit-requests"] == "2"
    assert first.headers["x-ratelimit-remaining-requests"] == "1"
    with pytest.raises(openai.PermissionDeniedError):
        ask(secret, "other")
    with pytest.raises(openai.AuthenticationError):
        ask("sk-jg-unknown")
    ask(secret)
    with pytest.raises(openai.RateLimitError) as refused:
        ask(secret)
    assert 1 <= int(refused.value.response.headers["retry-after"]) <= 30
    assert refused.value.code == "rate_limit_exceeded"


def test_a_record_says_whose_key_it_was_and_a_key_sees_its_own_project_only(stack: Stack) -> None:
    mine, others = (new_key(stack, project=name, user_id="u") for name in ("mine", "others"))
    answers = {name: asked(stack, secret) for name, (_, secret) in (("mine", mine), ("others", others))}
    records = {name: stack.record(answer.headers["x-request-id"]) for name, answer in answers.items()}
    found = records["mine"]
    assert (found["project"], found["tenant"], found["user_id"], found["api_key"]) == (
        *("mine", "mine", "u"),
        mine[0],
    )
    until(lambda: len(stack.client.get("/v1/energy/requests?project=mine").json()["data"]) == 1, "stored")
    with httpx.Client(base_url=stack.proxy.url, headers=bearer(mine[1])) as me:
        listed = me.get("/v1/energy/requests").json()["data"]
        assert [one["project"] for one in listed] == ["mine"]
        assert me.get("/v1/energy/requests?project=others").status_code == 403
        assert me.get(f"/v1/energy/requests/{found['id']}").status_code == 200
        assert me.get(f"/v1/energy/requests/{records['others']['id']}").status_code == 404
        usage = me.get(
            f"/v1/organization/usage/completions?start_time={int(found['started_at'])}&group_by=project_id"
        )
        assert usage.status_code == 200, usage.text
        seen = {result["project_id"] for bucket in usage.json()["data"] for result in bucket["results"]}
        assert seen == {"mine"}
        for path in (
            "/v1/energy/books",
            "/v1/energy/devices",
            "/v1/energy/diagnosis",
            "/v1/keys",
            "/metrics",
        ):
            assert me.get(path).status_code == 403, path
        assert me.post("/v1/keys", json={"name": "more"}).status_code == 403
        assert me.get("/v1/models").json()["data"]


def test_the_admin_key_is_for_administration_only(stack: Stack) -> None:
    answer = stack.post(chat(), authorization=f"Bearer {ADMIN_SECRET}")
    assert (answer.status_code, error_of(answer)["code"]) == (403, "admin_key_refused")
    assert httpx.get(stack.proxy.url + "/metrics", auth=("anybody", ADMIN_SECRET)).status_code == 200


def test_keys_are_listed_changed_rotated_and_revoked(stack: Stack) -> None:
    id, old = new_key(stack, name="first")
    view = stack.client.get(f"/v1/keys/{id}").json()
    assert (view["name"], view["redacted_value"]) == ("first", f"sk-jg-...{old[-4:]}")
    assert "value" not in view
    changed = stack.client.post(f"/v1/keys/{id}", json={"name": "second", "limits": {"parallel_requests": 3}})
    assert (changed.json()["name"], changed.json()["limits"]["parallel_requests"]) == ("second", 3)
    rotated = stack.client.post(f"/v1/keys/{id}/rotate", json={"grace_seconds": 3600}).json()
    assert [asked(stack, secret).status_code for secret in (old, rotated["value"])] == [200, 200]
    at_once = stack.client.post(f"/v1/keys/{id}/rotate", json={"grace_seconds": 0}).json()
    secrets = (old, rotated["value"], at_once["value"])
    assert [asked(stack, secret).status_code for secret in secrets] == [401, 401, 200]
    assert stack.client.delete(f"/v1/keys/{id}").json()["deleted"] is True
    assert asked(stack, at_once["value"]).status_code == 401
    assert stack.client.delete(f"/v1/keys/{id}").status_code == 404
    ids: list[str] = []
    page: dict[str, Any] = {"has_more": True, "last_id": None}
    while page["has_more"]:
        after = {} if page["last_id"] is None else {"after": page["last_id"]}
        page = stack.client.get("/v1/keys", params={"limit": 2, **after}).json()
        ids += [one["id"] for one in page["data"]]
    assert ids.count(id) == 1


@pytest.mark.parametrize(
    "body", [{}, {"name": ""}, {"name": "x", "models": "y"}, {"name": "x", "limits": {"joules": 1}}]
)
def test_what_cannot_be_a_key_is_a_400(stack: Stack, body: dict[str, Any]) -> None:
    assert stack.client.post("/v1/keys", json=body).status_code == 400


@pytest.mark.parametrize(
    ("content", "kind", "says"),
    [
        (b'{"name": "x"}', "text/plain", "a JSON object, with content-type: application/json"),
        (b'{"name": "x"}', None, "a JSON object, with content-type: application/json"),
        (b"", "application/json", "a JSON object, with content-type: application/json"),
        (b"[]", "application/json", "a JSON object"),
    ],
)
def test_a_body_that_is_no_json_object_is_told_what_to_be(
    stack: Stack, content: bytes, kind: str | None, says: str
) -> None:
    headers = {} if kind is None else {"content-type": kind}
    for way in ("keys", "keys/key_x"):
        error = error_of(stack.client.post(f"/v1/{way}", content=content, headers=headers))
        assert (error["message"], error["param"]) == (f"the body has to be {says}", None)


def test_a_body_that_grows_too_large_on_its_way_is_refused(stack: Stack) -> None:
    answer = stack.client.post("/v1/keys", content=(b" " * 100_000 for _ in range(12)))
    assert (answer.status_code, error_of(answer)["code"]) == (413, "request_too_large")


def test_a_body_that_is_not_json_at_all_is_told_where(stack: Stack) -> None:
    answer = stack.client.post("/v1/keys", content=b'{"name"', headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert error_of(answer)["message"].startswith("the body is not valid JSON: Expecting ':'")


def test_a_key_that_is_not_there_cannot_be_limited_and_a_project_can(stack: Stack) -> None:
    revoked, _ = new_key(stack)
    stack.client.delete(f"/v1/keys/{revoked}")
    for name in ("nope", revoked):
        answer = stack.client.put(f"/v1/limits/key/{name}", json={"joules_per_day": 1})
        error = error_of(answer)
        assert (answer.status_code, error["type"], error["param"]) == (404, "not_found_error", "name")
        assert error["message"] == f"there is no key {name}, or it is revoked"
    assert stack.client.put("/v1/limits/project/nobody-yet", json={"joules_per_day": 1}).status_code == 200
    assert "key/nope" not in stack.client.get("/v1/limits").text


def test_without_keys_that_is_said_before_anything_of_a_body(tmp_path: Path) -> None:
    settings = {"backends": [{"id": "e", "url": "http://127.0.0.1:9"}], "meter": {"source": "none"}}
    app = create_app(Settings.model_validate({**settings, "data_dir": tmp_path}), [], version="0")
    with TestClient(app) as client:
        for content, kind in ((b"name=x", "text/plain"), (b"{", "application/json")):
            answer = client.post("/v1/keys", content=content, headers={"content-type": kind})
            assert answer.status_code == 404
            assert "set access.enabled" in answer.json()["error"]["message"]
        assert client.put("/v1/limits/key/nope", json={"joules_per_day": "x"}).status_code == 404
        assert client.get("/v1/access").json()["keys"] is False


def test_limits_that_were_stored_under_other_bounds_are_shown(stack: Stack) -> None:
    id, _ = new_key(stack, limits={"requests_per_minute": 3})
    engine = connect(f"sqlite:///{stack.proxy.data_dir}/joulegate.db")
    AccessStore(engine, lambda: 1).set_limits(f"key/{id}", Limits(requests_per_minute=10**13))
    engine.dispose()

    def shown() -> bool:
        view = stack.client.get(f"/v1/keys/{id}")
        return view.status_code == 200 and view.json()["limits"]["requests_per_minute"] == 10**13

    until(shown, "the limit is shown")
    assert stack.client.delete(f"/v1/keys/{id}").status_code == 200


def test_what_the_command_line_makes_a_running_proxy_takes_in(stack: Stack) -> None:
    def keys(*arguments: str) -> str:
        command = [sys.executable, "-m", "joulegate", "keys", "--data-dir", str(stack.proxy.data_dir)]
        return subprocess.run([*command, *arguments], capture_output=True, check=True, text=True).stdout

    secret = keys(
        "create", "cli", "--project", "cli", "--expires-in", "1h", "--joules-per-day", "1e6"
    ).strip()
    until(lambda: asked(stack, secret).status_code == 200, "the new key is known")
    assert "cli" in keys("list")
    (id,) = [one["id"] for one in json.loads(keys("list", "--json"))["keys"] if one["name"] == "cli"]
    keys("limit", "project/cli", "--parallel-requests", "0")
    until(lambda: asked(stack, secret).status_code == 429, "the limit is known")
    keys("limit", "project/cli")
    rotated = keys("rotate", id, "--grace", "0s").strip()
    until(lambda: asked(stack, secret).status_code == 401, "the old secret is no more")
    assert asked(stack, rotated).status_code == 200
    keys("revoke", id)
    until(lambda: asked(stack, rotated).status_code == 401, "the key is revoked")


def test_no_secret_is_in_a_log_the_journal_the_store_or_an_answer(stack: Stack) -> None:
    id, secret = new_key(stack, project="secret")
    assert asked(stack, secret).status_code == 200
    assert asked(stack, secret + "x").status_code == 401
    assert asked(stack, secret, model="unknown").status_code == 404
    url = stack.proxy.url + CHAT
    assert httpx.post(url, json=chat(), headers={"x-api-key": secret}).status_code == 200
    assert httpx.post(url, json=chat(), auth=("anybody", secret)).status_code == 200
    rotated = stack.client.post(f"/v1/keys/{id}/rotate", json={"grace_seconds": 3600}).json()["value"]
    assert asked(stack, rotated).status_code == 200
    stack.client.get("/v1/energy/requests/" + secret)  # wherever it may have been put by mistake
    answers = [
        stack.client.get(path).text for path in ("/openapi.json", "/metrics", "/v1/keys", "/v1/limits")
    ]
    stack.record(asked(stack, secret).headers["x-request-id"])
    files = [path for path in stack.proxy.data_dir.rglob("*") if path.is_file()]
    texts = [path.read_bytes() for path in [stack.proxy.log, *files]] + [text.encode() for text in answers]
    assert {"joulegate.db", "keys.json", "00000001.ndjson"} <= {path.name for path in files}
    bare = [one.removeprefix("sk-jg-") for one in (secret, rotated)]
    for word in (*bare, ADMIN_SECRET, ENGINE_SECRET):
        assert [n for n, text in enumerate(texts) if word.encode() in text] == []
