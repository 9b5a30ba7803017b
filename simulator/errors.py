"""Errors in vLLM's shape: `{"error": {"message", "type", "param", "code"}}` with the HTTP status as code.

vLLM 0.32 as observed calls its own refusals `BadRequestError` and `NotFoundError`, and bodies that do not fit
the schema `Bad Request`.
"""

from __future__ import annotations

import json
from typing import Any


class EngineError(Exception):
    """Answered as it stands. `status` is the HTTP status and the `code` of the body."""

    def __init__(self, status: int, kind: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.param = param

    def body(self) -> dict[str, Any]:
        error = {"message": str(self), "type": self.kind, "param": self.param, "code": self.status}
        return {"error": error}


def bad_request(message: str, param: str | None = None, value: object = None) -> EngineError:
    """400; vLLM repeats the parameter and its value in the message."""
    if param is not None:
        message = f"{message} (parameter={param}, value={value})"
    return EngineError(400, "BadRequestError", message, param)


def unknown_model(asked: str, served: str) -> EngineError:
    """404 for a model that is not served."""
    message = f"The model `{asked}` does not exist. Valid aliases: {served}."
    return EngineError(404, "NotFoundError", message, "model")


def invalid(kind: str, where: str, message: str, given: object) -> EngineError:
    """400 for a body that does not fit the schema. `where` is a path such as `body.max_tokens`."""
    fault = {"type": kind, "loc": where, "msg": message, "input": given}
    text = f"1 validation error:\n  {fault}"
    return EngineError(400, "Bad Request", text, where)


def broken_json(error: json.JSONDecodeError) -> EngineError:
    """400 for a body that is no JSON."""
    where = f"body.{error.pos}"
    fault = {
        "type": "json_invalid",
        "loc": where,
        "msg": "JSON decode error",
        "input": "<dict of 0 items>",
        "ctx": {"error": error.msg},
    }
    return EngineError(400, "Bad Request", f"1 validation error:\n  {fault}", where)
