"""Answers of joulegate's own routes carry an x-request-id as well. The relay sees to its own."""

from __future__ import annotations

from uuid import uuid4

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from proxy.ask import header

OWN = ("/health", "/ready", "/metrics", "/docs", "/redoc", "/openapi.json", "/v1/energy/", "/v1/models",
       "/v1/organization/", "/v1/keys", "/v1/limits")  # fmt: skip
NAME = b"x-request-id"


class RequestIds:
    """Middleware. Relayed requests go past it untouched."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(OWN):
            await self.app(scope, receive, send)
            return
        given = header(scope["headers"], NAME) or str(uuid4())

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = message.setdefault("headers", [])
                if not any(name.lower() == NAME for name, _ in headers):
                    headers.append((NAME, given.encode("latin-1", "replace")))
            await send(message)

        await self.app(scope, receive, named)
