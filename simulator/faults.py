"""Faults on demand, for tests of whoever stands in front of an engine. Only with `--allow-faults`.

`POST /simulator/fault {"kind": ..., "count": n}` spoils the next n POST requests to /v1/...:

    die_midstream  the connection closes after three pieces of the answer's body
    half_chunk     the connection closes in the middle of the second piece
    garbage        bytes that are no HTTP, then the connection closes
    invalid_json   status 200 and a JSON content type, but no JSON
    http500        status 500 with an error in vLLM's shape
    hang           the request is read and never answered, until the client leaves

The layer sits directly below uvicorn and reaches the connection through uvicorn's `send`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Literal

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from simulator.bodies import Positive, read
from simulator.errors import EngineError

Kind = Literal["die_midstream", "garbage", "http500", "hang", "invalid_json", "half_chunk"]


class Order(msgspec.Struct):
    """How many requests to spoil, and how."""

    kind: Kind
    count: Positive = 1


def transport_of(send: Send) -> asyncio.Transport:
    """The connection below uvicorn's `send`. Raises TypeError where there is something else below."""
    transport = getattr(getattr(send, "__self__", None), "transport", None)
    if transport is None:
        raise TypeError("faults need uvicorn's own send directly above them")
    return transport  # type: ignore[no-any-return]


class Faults:
    """ASGI layer around the application."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._orders: deque[str] = deque()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
        elif scope["path"] == "/simulator/fault":
            await (await self._order(Request(scope, receive)))(scope, receive, send)
        elif self._orders and scope["path"].startswith("/v1/"):
            await self._spoil(self._orders.popleft(), scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _order(self, request: Request) -> Response:
        try:
            order = read(await request.body(), Order)
        except EngineError as error:
            return JSONResponse(error.body(), status_code=error.status)
        self._orders.extend([order.kind] * order.count)
        return JSONResponse({"waiting": list(self._orders)})

    async def _spoil(self, kind: str, scope: Scope, receive: Receive, send: Send) -> None:
        if kind == "die_midstream":
            await self._app(scope, receive, _Cut(send, whole=3, half=False))
        elif kind == "half_chunk":
            await self._app(scope, receive, _Cut(send, whole=1, half=True))
        elif kind == "garbage":
            await Request(scope, receive).body()
            transport = transport_of(send)
            transport.write(b"\x00\xffthis is not HTTP\r\n\r\n")
            transport.close()
            await _left(receive)
        elif kind == "invalid_json":
            await Request(scope, receive).body()
            await Response(b'{"id": "chatcmpl-', media_type="application/json")(scope, receive, send)
        elif kind == "http500":
            await Request(scope, receive).body()
            error = EngineError(500, "InternalServerError", "EngineCore encountered an issue.")
            await JSONResponse(error.body(), status_code=500)(scope, receive, send)
        else:
            await _left(receive)


async def _left(receive: Receive) -> None:
    """Wait until the connection is gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


class _Cut:
    """A `send` that closes the connection after `whole` pieces of body, or within the next one."""

    def __init__(self, send: Send, whole: int, half: bool) -> None:
        self._send = send
        self._whole = whole
        self._half = half
        self._transport = transport_of(send)

    async def __call__(self, message: Message) -> None:
        if message["type"] != "http.response.body":
            await self._send(message)
            return
        content = message.get("body", b"")
        if self._whole > 0 and message.get("more_body", False):
            self._whole -= 1
            await self._send(message)
            return
        if self._half or not message.get("more_body", False):
            await self._send({**message, "body": content[: len(content) // 2], "more_body": True})
        self._transport.close()
