"""Joulegate's own addresses: what is mistyped below them stays here, and HEAD is GET without a body."""

from __future__ import annotations

from uuid import uuid4

import pytest
from fastapi import FastAPI

from proxy.app import create_app
from proxy.backends import Backends
from proxy.paths import own_paths, relayed
from proxy.settings import Settings
from tests.proxy.hand_engine import Wire
from tests.proxy.raw_engine import RawEngine
from tests.proxy.stack import Stack, chat, error_of

MISTYPED = [
    "/v1/energy",
    "/v1/energy/TYPO",
    "/v1/energy/request/1",
    "/v1/energy%2FTYPO",
    "/v1/organization/usage/everything",
    "/v1/keys/a/b/c",
    "/v1/limits/nobody",
    "/v1/access/x",
]


@pytest.fixture(scope="module")
def app() -> FastAPI:
    settings = Settings.model_validate({"backends": [{"id": "one", "url": "http://127.0.0.1:9"}]})
    return create_app(settings, [], version="0")


@pytest.mark.parametrize("path", MISTYPED)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_what_is_mistyped_is_not_found_and_no_engine_hears_of_it(
    raw: RawEngine, raw_stack: Stack, method: str, path: str
) -> None:
    request_id = str(uuid4())
    answer = raw_stack.client.request(method, path, json=chat(), headers={"x-request-id": request_id})
    assert (answer.status_code, error_of(answer)["type"]) == (404, "not_found_error")
    assert answer.headers.get_list("x-request-id") == [request_id]
    assert not any(request_id in got.all("x-request-id") for got in raw.received)
    assert raw_stack.find(request_id) is None


def test_what_only_begins_like_joulegates_own_is_the_engines(app: FastAPI) -> None:
    decide = relayed(own_paths(app), Backends([]))
    for path in ("/v1/chat/completions", "/v1/energyfoo", "/v1/keysets", "/v1/limitsof", "/v1/accessories"):
        assert decide("POST", path)
    for path in (*MISTYPED, "/v1/videos/x", "/v1/images/x/content", "/v1/energy/requests/x"):
        assert not decide("GET", path)


@pytest.mark.parametrize(
    "path",
    ["/health", "/ready", "/metrics", "/openapi.json", "/docs", "/page/", "/v1/energy/requests",
     "/v1/energy/books", "/v1/organization/costs?start_time=1", "/v1/energy/requests/nobodys"],
)  # fmt: skip
def test_head_is_get_without_a_body(stack: Stack, path: str) -> None:
    got, head = stack.client.get(path), stack.client.head(path)
    assert (head.status_code, head.content) == (got.status_code, b"")
    assert head.headers["content-type"] == got.headers["content-type"]
    assert "x-request-id" in head.headers or path == "/page/"


def test_after_a_head_the_connection_goes_on(stack: Stack) -> None:
    wire = Wire.to(stack.proxy.url)
    wire.send(b"HEAD /health HTTP/1.1\r\nhost: h\r\n\r\nGET /health HTTP/1.1\r\nhost: h\r\n\r\n")
    head = wire.until(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    assert b"content-length: 15" in head
    status, _, body = wire.answer()
    assert (status, body) == (200, b'{"status":"ok"}')
    wire.close()


def test_head_where_there_is_no_get_is_refused(stack: Stack) -> None:
    assert stack.client.head("/v1/keys/x/rotate").status_code == 405


def test_the_page_is_found_without_its_slash(stack: Stack) -> None:
    answer = stack.client.get("/page")
    assert (answer.status_code, answer.headers["location"]) == (307, "/page/")
    assert stack.client.get("/page", follow_redirects=True).status_code == 200
