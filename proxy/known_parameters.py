"""Query parameters that nobody knows are refused: a filter that is mistyped would answer for everybody."""

from __future__ import annotations

from collections.abc import Iterable

from fastapi import Request
from fastapi.routing import APIRoute

from proxy.errors import BadRequest


def only_known(request: Request) -> None:
    """A dependency of routers: what a route takes is what the OpenAPI document says of it.

    Raises BadRequest with the first name that is not there.
    """
    if not request.query_params:
        return
    route: APIRoute = request.scope["route"]
    method = "get" if request.method == "HEAD" else request.method.lower()
    operation = request.app.openapi()["paths"][route.path_format][method]
    names = [one["name"] for one in operation.get("parameters", ()) if one["in"] == "query"]
    for name in request.query_params:
        if name not in names:
            raise unknown(name, names)


def unknown(name: str, names: Iterable[str]) -> BadRequest:
    there_are = ", ".join(names) or "none here"
    return BadRequest(
        f"unknown parameter {name!r}; there are {there_are}", param=name, code="unknown_parameter"
    )
