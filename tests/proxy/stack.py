"""A running proxy as a test sees it: sends requests, waits for records, looks at the books."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import httpx

from joulegate.process import ProxyProcess
from simulator.process import SimulatedEngine

DEADLINE_S = 30.0
CHAT = "/v1/chat/completions"

T = TypeVar("T")


def until(condition: Callable[[], T | None], what: str, deadline_s: float = DEADLINE_S) -> T:
    """What `condition` gives once it is neither None nor False; fails at the deadline."""
    end = time.monotonic() + deadline_s
    while True:
        found = condition()
        if found is not None and found is not False:
            return found
        assert time.monotonic() < end, f"waited {deadline_s:.0f} s in vain: {what}"
        time.sleep(0.02)


def metered(engine: SimulatedEngine, **settings: Any) -> dict[str, Any]:
    """Settings for a proxy in front of `engine` that reads its GPU."""
    assert engine.library is not None
    backends = [{"id": "engine", "url": engine.url}]
    return {"backends": backends, "meter": {"library": str(engine.library)}, **settings}


@contextmanager
def running(directory: Path, settings: dict[str, Any], **options: Any) -> Iterator[Stack]:
    with ProxyProcess(directory, settings, **options) as proxy, Stack(proxy) as stack:
        yield stack


def chat(**fields: Any) -> dict[str, Any]:
    """A small chat for the simulated model; every field can be replaced."""
    messages = [{"role": "user", "content": "what does a joule cost?"}]
    return {"model": "tiny", "messages": messages, "max_tokens": 6, "ignore_eos": True, **fields}


def events(text: str) -> list[dict[str, Any]]:
    """The JSON of a stream's events, without [DONE]."""
    lines = [line.removeprefix("data: ") for line in text.split("\n") if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


class Stack:
    """Talks to a proxy; `client` is an ordinary HTTP client of it."""

    def __init__(self, proxy: ProxyProcess) -> None:
        self.proxy = proxy
        self.client = httpx.Client(base_url=proxy.url, timeout=60.0)

    def __enter__(self) -> Stack:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()

    def post(
        self, body: Any, path: str = CHAT, request_id: str | None = None, **headers: str
    ) -> httpx.Response:
        """Send a body (bytes as they are, else as JSON) with an x-request-id of its own."""
        named = {"x-request-id": request_id or str(uuid4()), "content-type": "application/json"}
        named |= {name.replace("_", "-"): value for name, value in headers.items()}
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.client.post(path, content=content, headers=named)

    def find(self, request_id: str) -> dict[str, Any] | None:
        answer = self.client.get(f"/v1/energy/requests/{request_id}")
        if answer.status_code == 404:
            return None
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def record(self, request_id: str) -> dict[str, Any]:
        """The final record, waited for."""

        def final() -> dict[str, Any] | None:
            found = self.find(request_id)
            return found if found is not None and found["state"] == "final" else None

        return until(final, f"a final record of {request_id}")

    def ended(self, request_id: str, status: str, http_status: int | None) -> dict[str, Any]:
        """The record, final or not, once it says that the request ended in this way."""

        def so() -> dict[str, Any] | None:
            found = self.find(request_id)
            return (
                found if found and (found["status"], found["http_status"]) == (status, http_status) else None
            )

        return until(so, f"{request_id} is {status} with {http_status}: {self.find(request_id)}", 10.0)

    def records(self) -> list[dict[str, Any]]:
        """All that the store holds, page by page."""
        found: list[dict[str, Any]] = []
        query: dict[str, str] = {"limit": "1000"}
        while True:
            page = self.client.get("/v1/energy/requests", params=query).json()
            found += page["data"]
            if page["next_page"] is None:
                return found
            query["after"] = page["next_page"]

    def stored(self, count: int) -> list[dict[str, Any]]:
        """All records, once there are at least `count`."""
        return until(lambda: found if len(found := self.records()) >= count else None, f"{count} records")

    def books(self) -> dict[str, Any]:
        """The sum over the books, once there are any."""

        def total() -> dict[str, Any] | None:
            answer = self.client.get("/v1/energy/books")
            assert answer.status_code == 200, answer.text
            found: dict[str, Any] | None = answer.json()["total"]
            return found

        return until(total, "the books are empty")

    def assert_balanced(self) -> None:
        """Every interval balances, and the requests' joules are those of the books, to the microjoule.

        Waits for it: the books are written while this asks.
        """

        def equal() -> bool:
            charged_uj = sum(r["energy_uj"] or 0 for r in self.records())
            return bool(charged_uj == self.books()["requests_uj"])

        until(equal, f"sum over records = sum over books: {self.books()}")
        assert self.books()["balanced"]


def error_of(answer: httpx.Response) -> dict[str, Any]:
    """The error of an answer, which must have OpenAI's shape."""
    body = answer.json()
    assert set(body) == {"error"}, body
    error: dict[str, Any] = body["error"]
    assert set(error) == {"message", "type", "param", "code"}, body
    assert error["message"]
    assert error["type"]
    return error
