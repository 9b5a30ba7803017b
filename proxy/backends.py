"""The engines behind the proxy: which models each serves, whether it answers, which one gets a request."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
from yarl import URL

from proxy import settings
from proxy.errors import BadRequest, NotFound
from proxy.stream import Fingerprint

log = logging.getLogger(__name__)

LOOK_EVERY_S = 10.0
LOOK_AGAIN_S = 1.0
"""One that does not answer may be loading still, or come back: it is asked this often."""


@dataclass(slots=True)
class Backend:
    id: str
    url: URL
    gpus: list[str]
    configured_models: list[str] | None
    models: dict[str, dict[str, Any]] = field(default_factory=dict)
    """The models it serves, each as it describes it."""
    up: bool | None = None
    """Whether it answered last time; None before it was asked."""
    fingerprint: Fingerprint = field(default_factory=Fingerprint)
    in_flight: int = 0

    @classmethod
    def of(cls, configured: settings.Backend, gpus: list[str]) -> Backend:
        named = configured.models
        cards = {m: {"id": m, "object": "model", "owned_by": configured.id} for m in named or []}
        return cls(configured.id, URL(str(configured.url)), gpus, named, cards)

    def target(self, path: str, query: bytes) -> URL:
        base = str(self.url).rstrip("/")
        return URL(base + path + ("?" + query.decode("latin-1") if query else ""), encoded=True)


class Backends:
    """All of them. `watch` keeps what is known of them fresh."""

    def __init__(self, backends: Sequence[Backend]) -> None:
        self.all = list(backends)

    def choose(self, model: str | None) -> Backend:
        """The backend for a model. A lone backend gets everything and judges for itself.

        Raises BadRequest where there are several and no model is named, NotFound where none serves it.
        """
        if len(self.all) == 1:
            return self.all[0]
        if model is None:
            raise BadRequest("you must provide a model parameter", param="model")
        serving = [b for b in self.all if model in b.models]
        if not serving:
            raise NotFound(f"The model `{model}` does not exist.", param="model", code="model_not_found")
        return min(serving, key=lambda b: (b.up is False, b.in_flight))

    async def watch(self, look_every_s: float = LOOK_EVERY_S) -> None:
        """Ask every backend for its models, again and again; runs until cancelled."""
        due_s = 0.0
        async with httpx.AsyncClient(timeout=5.0) as client:
            while True:
                now_s = asyncio.get_running_loop().time()
                due = self.all if now_s >= due_s else [b for b in self.all if not b.up]
                due_s = now_s + look_every_s if due is self.all else due_s
                await asyncio.gather(*(self._look(client, backend) for backend in due))
                await asyncio.sleep(min(look_every_s, LOOK_AGAIN_S))

    async def _look(self, client: httpx.AsyncClient, backend: Backend) -> None:
        was = backend.up
        try:
            answer = await client.get(str(backend.target("/v1/models", b"")))
            answer.raise_for_status()
            models = {str(item["id"]): item for item in answer.json()["data"]}
        except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
            backend.up = False
            if was is not False:
                reason = f"{type(error).__name__}: {error}"
                log.warning("backend %s does not answer at %s: %s", backend.id, backend.url, reason)
            return
        backend.up = True
        if (named := backend.configured_models) is None:
            backend.models = models
        else:
            backend.models.update({model: models[model] for model in named if model in models})
        if was is not True:
            log.info("backend %s is up at %s, serving %s", backend.id, backend.url, ", ".join(models))
