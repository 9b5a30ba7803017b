"""Looks at engines from outside: is each one alive, and which models does it serve?

`/health` says whether vLLM's engine lives (503 where its core has died while the HTTP server still answers;
vLLM 0.32 as observed); a server without that route answers 404 and is judged by its `/v1/models` alone.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import httpx

if TYPE_CHECKING:
    from proxy.backends import Backend, Backends

log = logging.getLogger(__name__)


async def watch(backends: Backends) -> None:
    """Look at all of them every `health.interval_s`, at those that are not well more often.

    Each is looked at by itself, so that one that hangs does not hold up the news of the others.
    """
    loop = asyncio.get_running_loop()
    looking: set[Backend] = set()

    async def one(backend: Backend) -> None:
        try:
            await look(client, backend, backends.health.timeout_s, backends.health.looks)
        finally:
            looking.discard(backend)

    due_s = 0.0
    async with httpx.AsyncClient() as client, asyncio.TaskGroup() as group:
        while True:
            health, now_s = backends.health, loop.time()
            due = [b for b in backends.all if now_s >= due_s or not b.up or b.silent_looks]
            if now_s >= due_s:
                due_s = now_s + health.interval_s
            for backend in due:
                if backend not in looking:
                    looking.add(backend)
                    group.create_task(one(backend))
            backends.forget_drained()
            await asyncio.sleep(min(health.interval_s, health.interval_down_s))


async def look(client: httpx.AsyncClient, backend: Backend, timeout_s: float, looks: int) -> None:
    """One look. `looks` in a row without an answer make it down; a refused connection does so at once."""
    try:
        models = await _ask(client, backend, timeout_s)
    except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
        backend.silent_looks += 1
        patient = backend.up and backend.silent_looks < looks and not isinstance(error, httpx.ConnectError)
        if patient:
            return
        if backend.up is not False:
            reason = f"{type(error).__name__}: {error}"
            log.warning("backend %s does not answer at %s: %s", backend.id, backend.url, reason)
        backend.up = False
        return
    backend.silent_looks = 0
    if (named := backend.configured_models) is not None:
        models = {model: models.get(model, backend.models[model]) for model in named}
    if backend.up is not True or models.keys() != backend.models.keys():
        log.info("backend %s is up at %s, serving %s", backend.id, backend.url, ", ".join(models))
    backend.up, backend.models = True, models


async def _ask(client: httpx.AsyncClient, backend: Backend, timeout_s: float) -> dict[str, dict[str, Any]]:
    """The models by id. Raises httpx.HTTPError, ValueError, KeyError, TypeError."""
    headers = backend.credentials()
    alive = await client.get(str(backend.target("/health", b"")), timeout=timeout_s, headers=headers)
    if alive.status_code >= 500:
        alive.raise_for_status()
    answer = await client.get(str(backend.target("/v1/models", b"")), timeout=timeout_s, headers=headers)
    answer.raise_for_status()
    return {str(item["id"]): item for item in answer.json()["data"]}
