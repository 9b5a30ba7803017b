"""Gives an xDiT server OpenAI's surface: a small server on this machine in front of its `POST /generate`.

xDiT's HTTP service (0.7, entrypoints/launch.py) makes one image per request, `{prompt, num_inference_steps,
seed, cfg, height, width}`, answers `{message, elapsed_time: "1.23 sec", output: base64 PNG}`, errors as
`{detail}`, and nothing else; while it works it answers nobody, so that it is alive if it takes a connection.
Several images are made one after the other, with the seeds that follow.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import aiohttp
from aiohttp import web
from yarl import URL

from proxy.media.ask import of_json
from proxy.settings import Backend, Settings

log = logging.getLogger(__name__)

MOST_IMAGES = 10
BODY_BYTES = 4_000_000
ALIVE_S = 2.0
DEFAULT_SIZE = (1024, 1024)
_ELAPSED = re.compile(r"([0-9.]+) sec").fullmatch


class XditError(Exception):
    """What the client is told: an HTTP status and a message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Adapter:
    """Speaks OpenAI's images API for the xDiT server at `url`."""

    def __init__(self, url: str, models: list[str], client: aiohttp.ClientSession) -> None:
        self._url, self._models, self._client = url.rstrip("/"), models, client

    def app(self) -> web.Application:
        app = web.Application(client_max_size=BODY_BYTES)
        app.router.add_get("/health", self._health)
        app.router.add_get("/v1/models", self._list)
        app.router.add_post("/v1/images/generations", self._generations)
        app.router.add_route("*", "/{path:.*}", self._nothing)
        return app

    async def _health(self, _: web.Request) -> web.Response:
        parts = URL(self._url)
        try:
            async with asyncio.timeout(ALIVE_S):
                _reader, writer = await asyncio.open_connection(parts.host, parts.port)
        except (OSError, TimeoutError) as error:
            return _fault(503, f"the xDiT server takes no connection: {error}")
        writer.close()
        return web.Response()

    async def _list(self, _: web.Request) -> web.Response:
        models = [{"id": model, "object": "model", "owned_by": "xdit"} for model in self._models]
        return web.json_response({"object": "list", "data": models})

    async def _nothing(self, request: web.Request) -> web.Response:
        return _fault(404, f"an xDiT server has no {request.path}")

    async def _generations(self, request: web.Request) -> web.Response:
        raw = await request.read()
        try:
            asked = _asked(raw)
            media = of_json(request.path, raw)
            if media.count > MOST_IMAGES:
                raise XditError(400, f"n: at most {MOST_IMAGES} images at a time")
            if media.width is not None and media.height is not None:
                asked["width"], asked["height"] = media.width, media.height
            made = [await self._one({**asked, "seed": asked["seed"] + k}) for k in range(media.count)]
        except XditError as error:
            return _fault(error.status, str(error))
        images = [{"b64_json": image, "url": None, "revised_prompt": None} for image, _ in made]
        size = f"{asked['width']}x{asked['height']}"
        seconds = [second for _, second in made if second is not None]
        took_s = sum(seconds) if len(seconds) == len(made) else None
        answer = {"created": int(time.time()), "data": images, "size": size, "inference_time_s": took_s}
        return web.json_response(answer)

    async def _one(self, body: dict[str, Any]) -> tuple[str, float | None]:
        """An image as base64, and the seconds it took by the server. Raises XditError."""
        try:
            async with self._client.post(f"{self._url}/generate", json=body) as answer:
                status, said = answer.status, await answer.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise XditError(
                502, f"the xDiT server gave no answer: {type(error).__name__}: {error}"
            ) from error
        try:
            parsed = json.loads(said)
        except ValueError:
            parsed = None
        parsed = parsed if isinstance(parsed, dict) else {}
        if status != 200:
            raise XditError(status, str(parsed.get("detail") or said[:200].decode("utf-8", "replace")))
        output = parsed.get("output")
        if not isinstance(output, str) or parsed.get("save_to_disk"):
            raise XditError(502, "the xDiT server answered without an image")
        elapsed = _ELAPSED(str(parsed.get("elapsed_time")))
        return output, None if elapsed is None else float(elapsed[1])


def _asked(raw: bytes) -> dict[str, Any]:
    """The request in xDiT's words. Raises XditError."""
    try:
        body = json.loads(raw)
    except ValueError as error:
        raise XditError(400, f"the body is not JSON: {error}") from error
    if not isinstance(body, dict) or not isinstance(body.get("prompt"), str) or not body["prompt"]:
        raise XditError(400, "prompt: a text is needed")
    if body.get("response_format", "b64_json") != "b64_json":
        raise XditError(400, "response_format: xDiT gives b64_json only")
    width, height = DEFAULT_SIZE
    asked = {"prompt": body["prompt"], "seed": 42, "width": width, "height": height}
    names = {"num_inference_steps": "num_inference_steps", "seed": "seed", "guidance_scale": "cfg"}
    for ours, theirs in names.items():
        value = body.get(ours)
        if isinstance(value, int | float) and not isinstance(value, bool):
            asked[theirs] = value if theirs == "cfg" else int(value)
        elif value is not None:
            raise XditError(400, f"{ours}: a number is needed")
    return asked


def _fault(status: int, message: str) -> web.Response:
    kind = "server_error" if status >= 500 else "invalid_request_error"
    error = {"message": message, "type": kind, "param": None, "code": None}
    return web.json_response({"error": error}, status=status)


@asynccontextmanager
async def adapters(settings: Settings) -> AsyncIterator[Callable[[Settings], Settings]]:
    """Runs one for each backend of the kind `xdit`. Gives what puts their addresses into settings; a backend
    that was not there at the start keeps its own, and is of no use before a restart."""
    urls: dict[tuple[str, str], str] = {}

    def use(new: Settings) -> Settings:
        backends = [_moved(one, urls.get((one.id, str(one.url)))) for one in new.backends]
        return new.model_copy(update={"backends": backends})

    async with AsyncExitStack() as stack:
        for backend in settings.backends:
            if backend.kind == "xdit":
                urls[backend.id, str(backend.url)] = await _serve(backend, settings, stack)
        yield use


async def _serve(backend: Backend, settings: Settings, stack: AsyncExitStack) -> str:
    """Raises OSError."""
    timeout = aiohttp.ClientTimeout(total=None, sock_read=settings.timeouts.first_byte_s)
    client = await stack.enter_async_context(aiohttp.ClientSession(timeout=timeout))
    adapter = Adapter(str(backend.url), backend.models or [backend.id], client)
    runner = web.AppRunner(adapter.app(), access_log=None)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    log.info(
        "backend %s: OpenAI's images API for xDiT at %s is on %s:%d", backend.id, backend.url, host, port
    )
    return f"http://{host}:{port}"


def _moved(backend: Backend, url: str | None) -> Backend:
    return backend if url is None else backend.model_copy(update={"url": url})
