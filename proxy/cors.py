"""What a page in a browser may read of the answers that joulegate makes in an engine's place (CORS).

Whether a page may ask at all is the engine's to say: the question before a request goes there. Its own
answers then say that they may be read, as vLLM's do (`--allowed-origins`, by default any); so must an error
that takes their place, or the page sees no more than that the network failed. joulegate's other routes are
for no page but its own.
"""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from proxy.wire.head import Header, Headers, value_of

READABLE: Header = (b"access-control-allow-origin", b"*")

IN_PLACE = ("/v1/models", "/v1/videos", "/v1/images/")
"""Routes that answer for the engines."""


def readable(asked: Headers) -> list[Header]:
    """Headers for the answer to a request with these."""
    return [] if value_of(asked, b"origin") is None else [READABLE]


class Cors:
    """Middleware around all that answers on these routes."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(IN_PLACE):
            await self.app(scope, receive, send)
            return
        more = readable(scope["headers"])

        async def with_more(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], *more]}
            await send(message)

        await self.app(scope, receive, with_more)
