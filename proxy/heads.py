"""HEAD wherever joulegate's own routes have GET: the same answer without its body (RFC 9110, 9.3.2).

Load balancers ask after health so. The relay's requests do not come here: an engine answers its own HEAD.
"""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class Heads:
    """Middleware around all others."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self.app(scope, receive, send)
            return

        async def without_body(message: Message) -> None:
            if message["type"] == "http.response.start":
                await send(message)
                await send({"type": "http.response.body", "body": b""})  # whoever still streams now stops

        await self.app({**scope, "method": "GET"}, receive, without_body)
