"""The OpenAPI document of joulegate's own routes: as FastAPI makes it, with the errors that are really given.

FastAPI would tell of a 422 in a shape of its own; here a parameter or body that cannot be used is a 400, and
every error has OpenAI's shape. Where keys are asked for, 401 and 403 come with it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel, ConfigDict, Field
from starlette.routing import compile_path

from proxy.errors import ApiError, BadRequest, Forbidden, Unauthorized

NOT_OURS = ("HTTPValidationError", "ValidationError")
KEY, PASSWORD = "key", "key_as_password"


class ErrorDetail(BaseModel):
    model_config = ConfigDict(extra="forbid")

    message: str = Field(description="for people")
    type: str = Field(description="kind of error")
    param: str | None = Field(description="the parameter it is about; null: none, or several")
    code: str | None = Field(description="for programs; null: the type says all")


class ErrorBody(BaseModel):
    """An error, in OpenAI's shape."""

    model_config = ConfigDict(extra="forbid")

    error: ErrorDetail = Field(description="what is wrong")


def errors_of(*kinds: type[ApiError]) -> dict[int | str, dict[str, Any]]:
    """For a route's or a router's `responses`: it may answer with these."""
    return {kind.status: {"model": ErrorBody, "description": _what(kind)} for kind in kinds}


def _what(kind: type[ApiError]) -> str:
    words = "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in kind.__name__)
    return words.strip().capitalize()


def install(app: FastAPI, *, keys: bool, is_open: Callable[[str], bool]) -> None:
    """Make the document this one. `keys`: whether they are asked for; `is_open`: the paths that need none."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app, keys, is_open)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def methods(app: FastAPI) -> Callable[[str], Sequence[str]]:
    """What a path may be asked with, by the document; nothing where it is none of its paths. Where there is
    GET there is HEAD (heads.py).
    """

    @cache
    def known() -> list[tuple[re.Pattern[str], list[str]]]:
        return [
            (compile_path(path)[0], sorted({*map(str.upper, ways), *(("HEAD",) if "get" in ways else ())}))
            for path, ways in app.openapi()["paths"].items()
        ]

    return lambda path: next((ways for pattern, ways in known() if pattern.match(path)), ())


def _document(app: FastAPI, keys: bool, is_open: Callable[[str], bool]) -> dict[str, Any]:
    made = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
    parts: dict[str, Any] = made.setdefault("components", {})
    schemas: dict[str, Any] = parts.setdefault("schemas", {})
    for name in NOT_OURS:
        schemas.pop(name, None)
    for model in (ErrorBody, ErrorDetail):
        schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
        schema.pop("$defs", None)
        schemas[model.__name__] = schema
    for path, ways in made["paths"].items():
        for way in ways.values():
            answers = way["responses"]
            answers.pop("422", None)
            if way.get("parameters") or "requestBody" in way:
                answers.setdefault("400", _error(BadRequest))
            if keys and not is_open(path):
                for kind in (Unauthorized, Forbidden):
                    answers.setdefault(str(kind.status), _error(kind))
                way["security"] = [{KEY: []}, {PASSWORD: []}]
    if keys:
        parts["securitySchemes"] = {
            KEY: {"type": "http", "scheme": "bearer", "description": "a key of joulegate's (docs/access.md)"},
            PASSWORD: {"type": "http", "scheme": "basic", "description": "the key as the password"},
        }
    return made


def _error(kind: type[ApiError]) -> dict[str, Any]:
    schema = {"$ref": f"#/components/schemas/{ErrorBody.__name__}"}
    return {"description": _what(kind), "content": {"application/json": {"schema": schema}}}
