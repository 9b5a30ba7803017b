"""A proxy that asks for keys, for tests: its admin, keys made by it, requests with them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from simulator.process import SimulatedEngine
from tests.proxy.stack import Stack, chat, metered, running

ADMIN_SECRET = "the-admins-own-secret-of-a-test"
ENGINE_SECRET = "the-engines-own-secret"
ADMIN = {"authorization": f"Bearer {ADMIN_SECRET}"}


def bearer(secret: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"}


def guarded(engine: SimulatedEngine, **settings: Any) -> dict[str, Any]:
    settings = metered(engine, access={"enabled": True, "refresh_s": 0.1}, **settings)
    settings["backends"][0]["api_key"] = ENGINE_SECRET
    return settings


@contextmanager
def keyed(directory: Path, settings: dict[str, Any]) -> Iterator[Stack]:
    """The admin key comes from the environment; the client that looks at records shows it."""
    environment = {**os.environ, "JOULEGATE_ACCESS__ADMIN_KEY": ADMIN_SECRET}
    with running(directory, settings, environment=environment) as stack:
        stack.client.headers.update(ADMIN)
        yield stack


def new_key(stack: Stack, **fields: Any) -> tuple[str, str]:
    """Id and secret."""
    answer = stack.client.post("/v1/keys", json={"name": "a test's", **fields})
    assert answer.status_code == 200, answer.text
    made = answer.json()
    return made["id"], made["value"]


def asked(stack: Stack, secret: str, **fields: Any) -> httpx.Response:
    return stack.post(chat(**fields), authorization=f"Bearer {secret}")


def limits_of(stack: Stack, scope: str) -> dict[str, Any]:
    found = stack.client.get("/v1/limits").json()["data"]
    view: dict[str, Any] = next(one for one in found if one["scope"] == scope)
    return view
