"""The live page at /page/: our HTML, CSS and JavaScript, drawn by Plotly out of its Python package.

It asks the REST surface like anyone else, so it knows nothing that the REST does not tell, and works without
any address but the proxy's own.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from pathlib import Path

from fastapi import FastAPI
from starlette.responses import FileResponse, RedirectResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

STATIC = Path(__file__).parent / "static"

POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-eval'; style-src 'self' 'unsafe-inline';"
    " img-src 'self' data: blob:; object-src 'none'; base-uri 'none'; form-action 'self';"
    " frame-ancestors 'none'"
)
"""Nothing from elsewhere is loaded or asked. Plotly sets styles, and its WebGL layer compiles functions."""


@cache
def plotly() -> Path:
    """The library's script, as its Python package brings it along."""
    return Path(str(files("plotly").joinpath("package_data", "plotly.min.js")))


class Page:
    """The files of the page, with the policy above."""

    def __init__(self) -> None:
        self._files = StaticFiles(directory=STATIC, html=True)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {"content-security-policy": POLICY, "x-content-type-options": "nosniff"}
        if scope["path"].endswith("/plotly.js"):
            headers["cache-control"] = "public, max-age=86400"
            await FileResponse(plotly(), media_type="text/javascript", headers=headers)(scope, receive, send)
            return
        response = await self._files.get_response(self._files.get_path(scope), scope)
        response.headers.update({**headers, "cache-control": "no-cache"})
        await response(scope, receive, send)


def install(app: FastAPI) -> None:
    """Serve the page, and lead there from / and from its address without the slash."""
    app.router.routes.append(Mount("/page", Page(), name="page"))
    for path in ("/", "/page"):
        app.router.routes.append(Route(path, lambda _: RedirectResponse("/page/"), name="home"))
