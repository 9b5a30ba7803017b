"""The HTTP surface of the simulated engine: vLLM's routes, and `/simulator/truth` beside them."""

from __future__ import annotations

import uuid

from fastapi import FastAPI, Request
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse
from starlette.responses import Response

from simulator import bodies
from simulator.bodies import ChatBody, CompletionBody, DetokenizeBody, EmbeddingBody, TokenizeBody
from simulator.engine import Engine
from simulator.errors import EngineError, bad_request
from simulator.openai import VERSION
from simulator.replies import Reply
from simulator.surface import Config, Surface
from simulator.tokenizer import decode, token_text


def request_id(request: Request) -> str:
    """The client's X-Request-Id, or a new one."""
    return request.headers.get("x-request-id") or uuid.uuid4().hex


def create_app(engine: Engine, config: Config) -> FastAPI:
    """The application. Whoever serves it also runs `engine.run()` in the same event loop."""
    surface = Surface(engine, config)

    app = FastAPI(title="joulegate simulator", docs_url=None, redoc_url=None)
    # As vLLM does by default.
    app.add_middleware(CORSMiddleware, allow_origins=["*"], allow_methods=["*"], allow_headers=["*"])

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, EngineError)
        return JSONResponse(
            error.body(), status_code=error.status, headers={"x-request-id": request_id(request)}
        )

    app.add_exception_handler(EngineError, refused)
    _generating(app, surface)
    _describing(app, surface)
    return app


def _generating(app: FastAPI, surface: Surface) -> None:
    """Routes that make the engine work."""

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        body = bodies.read(await request.body(), ChatBody)
        return surface.chat(body, request.headers.get("x-request-id"))

    @app.post("/v1/completions")
    async def completions(request: Request) -> Response:
        body = bodies.read(await request.body(), CompletionBody)
        return surface.completion(body, request.headers.get("x-request-id"))

    @app.post("/v1/embeddings")
    async def embeddings(request: Request) -> Response:
        body = bodies.read(await request.body(), EmbeddingBody)
        return surface.embed(body, request.headers.get("x-request-id"))


def _describing(app: FastAPI, surface: Surface) -> None:
    """Routes that only tell."""
    engine = surface.engine

    def answer(request: Request, document: object) -> Response:
        return JSONResponse(document, headers={"x-request-id": request_id(request)})

    @app.get("/health")
    @app.get("/ping")
    async def health(request: Request) -> Response:
        return Response(headers={"x-request-id": request_id(request)})

    @app.get("/version")
    async def version(request: Request) -> Response:
        return answer(request, {"version": VERSION})

    @app.get("/load")
    async def load(request: Request) -> Response:
        return answer(request, {"server_load": Reply.in_flight})

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(engine.metrics.text(), media_type="text/plain; version=1.0.0; charset=utf-8")

    @app.get("/v1/models")
    async def models(request: Request) -> Response:
        return answer(request, {"object": "list", "data": [surface.model_card()]})

    @app.get("/v1/models/{name:path}")
    async def model(request: Request, name: str) -> Response:
        surface.check_model(name)
        return answer(request, surface.model_card())

    @app.post("/tokenize")
    async def tokenize(request: Request) -> Response:
        body = bodies.read(await request.body(), TokenizeBody)
        surface.check_model(body.model)
        if body.messages is not None:
            tokens = bodies.chat_prompt(body.messages)[0]
        else:
            tokens = bodies.prompts(body.prompt or "")[0]
        texts = [token_text(token) for token in tokens] if body.return_token_strs else None
        limit = surface.config.max_model_len
        return answer(
            request, {"count": len(tokens), "max_model_len": limit, "tokens": tokens, "token_strs": texts}
        )

    @app.post("/detokenize")
    async def detokenize(request: Request) -> Response:
        body = bodies.read(await request.body(), DetokenizeBody)
        surface.check_model(body.model)
        try:
            return answer(request, {"prompt": decode(body.tokens)})
        except ValueError as error:
            raise bad_request(str(error), "tokens") from error

    @app.get("/simulator/truth")
    async def truth(request: Request, request_id: str | None = None) -> Response:
        """True energies in microjoules: of the requests with this id or of all, idle, and the total."""
        told = {
            "object": "list",
            "data": [account.as_dict() for account in engine.truth.find(request_id)],
            "requests_uj": engine.truth.requests_uj,
            "idle_uj": engine.truth.idle_uj,
            "curve_uj": engine.curve_uj,
            "curve_end_us": engine.curve_end_us,
            "steps": engine.truth.steps,
        }
        return answer(request, told)
