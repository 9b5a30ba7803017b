"""Who may see joulegate's own routes, where keys are asked for.

The admin key sees all. Any other key sees the requests, usage and costs of its own project, its own limits,
and the models: what is not listed here is for the admin. So a new route is closed until somebody opens it.
"""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import parse_qsl, quote, urlencode
from uuid import uuid4

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from accounting.records import RequestRecord
from proxy.access import errors
from proxy.access.gate import Gate
from proxy.access.holder import ADMIN, Holder
from proxy.ask import header
from proxy.errors import ApiError, Forbidden
from proxy.settings_access import Access

HEALTH = ("/health", "/ready")
METRICS = "/metrics"
OPEN = frozenset(("/openapi.json", "/docs", "/docs/oauth2-redirect", "/redoc"))
"""What joulegate can do is no secret."""

PAGE = "/page"
"""Neither are the live page's files: they hold no figure. The page asks for a key, and the routes with it."""

ONE_REQUEST = ("/v1/energy/requests/", "/v1/energy/points/")
"""These routes look themselves whether the request is of the project (`may_see`, `project_of`)."""

OF_A_KEY = ("/v1/access", "/v1/limits")
"""These answer a key with what is its own (`holder_of`)."""

VIDEOS, IMAGES = "/v1/videos", "/v1/images/"
"""These too (proxy/routes/videos.py): to see to a job, and to delete it."""

MODELS = "/v1/models"
OF_A_PROJECT = {
    "/v1/energy/requests": "project",
    "/v1/energy/points": "project",
    "/v1/energy/flows": "project",
    "/v1/organization/usage/completions": "project_ids",
    "/v1/organization/usage/embeddings": "project_ids",
    "/v1/organization/usage/images": "project_ids",
    "/v1/organization/usage/videos": "project_ids",
    "/v1/organization/costs": "project_ids",
}
"""Lists, and the parameter that keeps each to a project."""


class Surface:
    """Middleware before the application's routes. Relayed requests do not come here (see wire/)."""

    def __init__(self, app: ASGIApp, settings: Access, gate: Callable[[], Gate]) -> None:
        self.app, self._settings, self._gate = app, settings, gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self._settings.enabled and not is_open(self._settings, scope["path"]):
            try:
                holder = self._gate().know(scope["headers"])
                scope.setdefault("state", {})["holder"] = holder
                if holder is not ADMIN:
                    narrow(scope, holder)
            except ApiError as refusal:
                request_id = header(scope["headers"], b"x-request-id") or str(uuid4())
                headers = {**refusal.headers(), "x-request-id": request_id}
                answer = JSONResponse(refusal.body(), refusal.status, headers)
                await answer(scope, receive, send)
                return
        await self.app(scope, receive, send)


def is_open(settings: Access, path: str) -> bool:
    """Whether it needs no key."""
    return (
        path in OPEN
        or path in ("/", PAGE)
        or path.startswith(PAGE + "/")
        or (path in HEALTH and settings.health == "everyone")
        or (path == METRICS and settings.metrics == "everyone")
    )


def narrow(scope: Scope, holder: Holder) -> None:
    """Keep a question to the key's own project. Raises Forbidden."""
    path, key = scope["path"], holder.key
    assert key is not None
    if path == VIDEOS or path.startswith((VIDEOS + "/", IMAGES)):
        return
    if scope["method"] not in ("GET", "HEAD"):
        raise errors.admin_only()
    if path == MODELS or path in OF_A_KEY or path.startswith((MODELS + "/", *ONE_REQUEST)):
        return
    name = OF_A_PROJECT.get(path)
    if name is None:
        raise errors.admin_only()
    asked = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
    others = {value for given, value in asked if given in (name, f"{name}[]")} - {key.project}
    if others:
        raise Forbidden("This key sees its own project only.", param=name)
    kept = [(given, value) for given, value in asked if given not in (name, f"{name}[]")]
    scope["query_string"] = urlencode([*kept, (name, key.project)], quote_via=quote).encode()


def holder_of(state: dict[str, object]) -> Holder:
    """Whoever asks; without keys as the admin. `state` is the request's, with its `holder`."""
    holder = state.get("holder")
    return holder if isinstance(holder, Holder) else ADMIN


def project_of(state: dict[str, object]) -> str | None:
    """The project to which whoever asks is kept; None: sees all."""
    key = holder_of(state).key
    return None if key is None else key.project


def may_see(state: dict[str, object], record: RequestRecord) -> bool:
    """Whether whoever asks may see this request."""
    project = project_of(state)
    return project is None or record.project == project
