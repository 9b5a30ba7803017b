"""What a page in a browser may read of the answers that joulegate makes in an engine's place (CORS).

Whether a page may ask at all is the engine's to say: the question before a request goes there. Its own
answers then say that they may be read, as vLLM's do (`--allowed-origins`, by default any); so must an error
that takes their place, or the page sees no more than that the network failed. joulegate's other routes are
for no page but its own.
"""

from __future__ import annotations

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

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
        self._app, self._readable = app, CORSMiddleware(app, allow_origins=["*"])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        in_place = scope["type"] == "http" and scope["path"].startswith(IN_PLACE)
        await (self._readable if in_place else self._app)(scope, receive, send)
