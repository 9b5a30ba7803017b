"""The HTTP surface of the diffusion server: vLLM-Omni's routes for images and videos, and `/simulator/truth`.

Shapes and habits are those of vLLM-Omni 0.30 as observed. An answer that nobody waits for any more is worked
off all the same once it runs, a deleted video too; only what still waits is dropped. There is no
/v1/images/variations.
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
import uuid
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.responses import Response

from simulator.diffusion.asks import ImageAsk, VideoAsk, from_form, from_json
from simulator.diffusion.cards import DiffusionCard, Kind, Shape
from simulator.diffusion.engine import DiffusionEngine, MediaRun
from simulator.diffusion.files import png
from simulator.diffusion.scheduler import Job
from simulator.diffusion.truth import MediaAccount
from simulator.diffusion.videos import Video, page
from simulator.errors import EngineError
from simulator.openai import dumps

LEFT_POLL_S = 0.02
"""How soon the server sees that a client has gone."""


@dataclass(eq=False, slots=True)
class Service:
    """What the routes share."""

    engine: DiffusionEngine
    card: DiffusionCard
    name: str
    created: int = field(default_factory=lambda: int(time.time()))
    videos: dict[str, Video] = field(default_factory=dict)

    def check_model(self, asked: str | None) -> None:
        if asked is not None and asked != self.name:
            message = f"Model mismatch: request specifies '{asked}' but server is running '{self.name}'."
            raise EngineError(400, "Bad Request", message)

    def submit(self, request_id: str, shape: Shape, outputs: int, kind: Kind) -> MediaRun:
        account = MediaAccount(
            request_id, kind, outputs, shape.width, shape.height, shape.steps, shape.frames
        )
        run = MediaRun(Job(shape, outputs), account)
        self.engine.submit(run)
        return run

    async def wait(self, run: MediaRun, request: Request) -> bool:
        """Until it is done; False if its client has gone before."""
        while not run.ended.is_set():
            if await request.is_disconnected():
                self.engine.leave(run)
                return False
            try:
                await asyncio.wait_for(run.ended.wait(), LEFT_POLL_S)
            except TimeoutError:
                continue
        return True


def request_id(request: Request) -> str:
    """The client's X-Request-Id, or a new one."""
    return request.headers.get("x-request-id") or uuid.uuid4().hex


def create_app(engine: DiffusionEngine, card: DiffusionCard, name: str) -> FastAPI:
    """The application. Whoever serves it also runs `engine.run()` in the same event loop."""
    service = Service(engine, card, name)
    app = FastAPI(title="joulegate diffusion simulator", docs_url=None, redoc_url=None)

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, EngineError)
        return JSONResponse(error.body(), error.status, {"x-request-id": request_id(request)})

    app.add_exception_handler(EngineError, refused)
    _images(app, service)
    _videos(app, service)
    _describing(app, service)
    return app


def _images(app: FastAPI, service: Service) -> None:
    @app.post("/v1/images/generations")
    async def generate(request: Request) -> Response:
        return await make(request, await from_json(request, ImageAsk))

    @app.post("/v1/images/edits")
    async def edit(request: Request) -> Response:
        return await make(request, await from_form(request, ImageAsk))

    async def make(request: Request, ask: ImageAsk) -> Response:
        service.check_model(ask.model)
        if ask.response_format not in ("b64_json", "file"):
            message = f"Only 'b64_json' or 'file' response format is supported, got: {ask.response_format}"
            raise EngineError(400, "Bad Request", message, "body.response_format")
        shape, name = ask.shape(service.card), request_id(request)
        run = service.submit(name, shape, ask.n, "image")
        if not await service.wait(run, request):
            return Response(status_code=499)
        head = {"x-request-id": name}
        picture = png(shape.width, shape.height)
        if ask.response_format == "file":
            head["content-disposition"] = f'attachment; filename="image_{name[:8]}.png"'
            return Response(picture, media_type="image/png", headers=head)
        encoded = base64.b64encode(picture).decode()
        image = {"b64_json": encoded, "url": None, "revised_prompt": None}
        stages = {"queue_wait_ms": run.queue_ms, "stage_0_gen_ms": run.generation_ms}
        body = {
            "created": int(time.time()),
            "data": [image] * ask.n,
            "output_format": "png",
            "size": f"{shape.width}x{shape.height}",
            "cot_output": None,
            "metrics": {"stage_durations": stages, "peak_memory_mb": None},
        }
        return Response(dumps(body), media_type="application/json", headers=head)


def _videos(app: FastAPI, service: Service) -> None:
    def told(request: Request, document: object) -> Response:
        head = {"x-request-id": request_id(request)}
        return Response(dumps(document), media_type="application/json", headers=head)

    def find(name: str) -> Video:
        video = service.videos.get(name)
        if video is None:
            raise EngineError(404, "Not Found", "Video not found")
        return video

    async def ask_of(request: Request) -> VideoAsk:
        is_json = request.headers.get("content-type", "").startswith("application/json")
        ask = await (from_json if is_json else from_form)(request, VideoAsk)
        service.check_model(ask.model)
        return ask

    @app.post("/v1/videos")
    async def create(request: Request) -> Response:
        ask = await ask_of(request)
        run = service.submit(request_id(request), ask.shape(service.card), 1, "video")
        video = Video(ask, service.name, run)
        run.account.job = video.id
        service.videos[video.id] = video
        return told(request, video.as_dict())

    @app.post("/v1/videos/sync")
    async def sync(request: Request) -> Response:
        ask = await ask_of(request)
        name = f"video_sync-{uuid.uuid4().hex[:16]}"
        run = service.submit(request_id(request), ask.shape(service.card), 1, "video")
        if not await service.wait(run, request):
            return Response(status_code=499)
        stages = {"queue_wait_ms": run.queue_ms, "stage_0_gen_ms": run.generation_ms}
        answer = Response(Video(ask, service.name, run).file(), media_type="video/mp4")
        for key, value in (
            ("x-request-id", name),
            ("x-model", service.name),
            ("x-inference-time-s", f"{run.generation_ms / 1000:.3f}"),
            ("x-stage-durations", json.dumps(stages, separators=(",", ":"))),
            ("x-peak-memory-mb", "0.000"),
            ("x-request-id", request_id(request)),  # both are sent
        ):
            answer.raw_headers.append((key.encode(), value.encode()))
        return answer

    @app.get("/v1/videos")
    async def listed(
        request: Request, after: str | None = None, limit: int | None = None, order: str = "desc"
    ) -> Response:
        return told(request, page(list(service.videos.values()), after, limit, order == "desc"))

    @app.get("/v1/videos/{name}")
    async def retrieve(request: Request, name: str) -> Response:
        return told(request, find(name).as_dict())

    @app.delete("/v1/videos/{name}")
    async def delete(request: Request, name: str) -> Response:
        video = find(name)
        del service.videos[name]
        service.engine.leave(video.run)
        return told(request, {"id": name, "deleted": True, "object": "video.deleted"})

    @app.get("/v1/videos/{name}/content")
    async def content(request: Request, name: str) -> Response:
        video = find(name)
        if not video.run.ended.is_set():
            raise EngineError(404, "Not Found", "Generation is still in-progress")
        head = {
            "accept-ranges": "bytes",
            "content-disposition": f'attachment; filename="{name}.mp4"',
            "x-request-id": request_id(request),
        }
        return Response(video.file(), media_type="video/mp4", headers=head)


def _describing(app: FastAPI, service: Service) -> None:
    """Routes that only tell."""
    engine = service.engine

    @app.get("/health")
    @app.get("/ping")
    async def health() -> Response:
        return Response()

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(engine.metrics.text(), media_type="text/plain; version=1.0.0; charset=utf-8")

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        model = {
            "id": service.name,
            "object": "model",
            "created": service.created,
            "owned_by": "vllm",
            "root": service.card.name,
            "parent": None,
            "max_model_len": None,
            "permission": [],
        }
        return {"object": "list", "data": [model]}

    @app.get("/simulator/truth")
    async def truth(request_id: str | None = None) -> dict[str, Any]:
        """True energies in microjoules: of the requests with this id or of all, idle, and the total."""
        return {
            "object": "list",
            "data": [account.as_dict() for account in engine.truth.find(request_id)],
            "requests_uj": engine.truth.requests_uj,
            "idle_uj": engine.truth.idle_uj,
            "curve_uj": engine.curve_uj,
            "curve_end_us": engine.curve_end_us,
            "steps": engine.truth.steps,
        }
