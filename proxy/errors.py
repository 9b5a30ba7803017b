"""Every error the proxy itself answers with, in OpenAI's shape.

    ApiError
    +- BadRequest            400  invalid_request_error
    +- Unauthorized          401  invalid_request_error   code invalid_api_key
    +- Forbidden             403  invalid_request_error   code permission_denied
    +- NotFound              404  not_found_error
    +- MethodNotAllowed      405  invalid_request_error   code method_not_allowed
    +- RequestTimeout        408  invalid_request_error   code request_timeout
    +- BodyTooLarge          413  invalid_request_error   code request_too_large
    +- TooManyRequests       429  requests                code rate_limit_exceeded
    +- HeadTooLarge          431  invalid_request_error   code head_too_large
    +- NotSupported          501  invalid_request_error   code not_supported
    +- VersionNotSupported   505  invalid_request_error   code not_supported
    +- Unexpected            500  server_error            code internal_error
    +- BackendUnavailable    503  server_error            code backend_unavailable
    +- BackendFailed         502  server_error            code backend_failed
    +- BackendTimeout        504  server_error            code backend_timeout

The body is `{"error": {"message", "type", "param", "code"}}`. An engine's own errors are not touched: they
pass through as the engine wrote them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException


class ApiError(Exception):
    """Base of the proxy's errors. Raise a subclass; the handlers below turn it into an answer."""

    status: ClassVar[int] = 500
    kind: str = "server_error"
    default_code: ClassVar[str | None] = None

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s
        self.code = code if code is not None else self.default_code

    def body(self) -> dict[str, dict[str, str | None]]:
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}

    def headers(self) -> dict[str, str]:
        """`retry-after` in whole seconds (RFC 9110, 10.2.3), at least 1, where it is known."""
        return (
            {} if self.retry_after_s is None else {"retry-after": str(max(1, math.ceil(self.retry_after_s)))}
        )

    def json_bytes(self) -> bytes:
        return json.dumps(self.body()).encode()


class BadRequest(ApiError):
    status = 400
    kind = "invalid_request_error"


class Unauthorized(ApiError):
    status = 401
    kind = "invalid_request_error"
    default_code = "invalid_api_key"

    def headers(self) -> dict[str, str]:
        """A browser then asks for the key, as the password."""
        return {"www-authenticate": 'Bearer realm="joulegate", Basic realm="joulegate"'}


class Forbidden(ApiError):
    status = 403
    kind = "invalid_request_error"
    default_code = "permission_denied"


class TooManyRequests(ApiError):
    """`kind` is what there is too much of, `reason` which limit was reached, for metrics. `again`: whether
    trying again soon may help. `more` headers tell of the limits.
    """

    status = 429
    kind = "requests"
    default_code = "rate_limit_exceeded"

    def __init__(
        self, message: str, *, kind: str, code: str, reason: str, retry_after_s: float, again: bool = True
    ) -> None:
        super().__init__(message, code=code, retry_after_s=retry_after_s)
        self.kind, self.reason, self.again = kind, reason, again
        self.more: dict[bytes, bytes] = {}

    def headers(self) -> dict[str, str]:
        """OpenAI's clients try a 429 again by themselves, unless `x-should-retry` tells them not to."""
        more = {name.decode(): value.decode() for name, value in self.more.items()}
        return super().headers() | more | ({} if self.again else {"x-should-retry": "false"})


class NotFound(ApiError):
    status = 404
    kind = "not_found_error"


class MethodNotAllowed(ApiError):
    status = 405
    kind = "invalid_request_error"
    default_code = "method_not_allowed"

    def __init__(self, message: str, *, allowed: Sequence[str]) -> None:
        super().__init__(message)
        self.allowed = allowed

    def headers(self) -> dict[str, str]:
        return {"allow": ", ".join(self.allowed)}


class BodyTooLarge(ApiError):
    status = 413
    kind = "invalid_request_error"
    default_code = "request_too_large"


class RequestTimeout(ApiError):
    status = 408
    kind = "invalid_request_error"
    default_code = "request_timeout"


class HeadTooLarge(ApiError):
    status = 431
    kind = "invalid_request_error"
    default_code = "head_too_large"


class NotSupported(ApiError):
    status = 501
    kind = "invalid_request_error"
    default_code = "not_supported"


class VersionNotSupported(ApiError):
    status = 505
    kind = "invalid_request_error"
    default_code = "not_supported"


class Unexpected(ApiError):
    status = 500
    default_code = "internal_error"


class BackendUnavailable(ApiError):
    status = 503
    default_code = "backend_unavailable"


class BackendFailed(ApiError):
    status = 502
    default_code = "backend_failed"


class BackendTimeout(ApiError):
    status = 504
    default_code = "backend_timeout"


def _fault(error: Mapping[str, Any]) -> tuple[str | None, str]:
    """Where it is, if it is not the body as a whole, and what."""
    where = error["loc"]
    if where[0] == "body":
        if error["type"] == "json_invalid":
            return None, f"the body is not valid JSON: {error['ctx']['error']}, at character {where[1] + 1}"
        if len(where) == 1:
            # FastAPI hands a body on as bytes where it is not said to be JSON.
            unsaid = error["type"] == "missing" or isinstance(error["input"], bytes)
            what = "a JSON object, with content-type: application/json" if unsaid else "a JSON object"
            return None, f"the body has to be {what}"
    return ".".join(str(part) for part in where[1:]) or None, str(error["msg"])


def install(app: FastAPI) -> None:
    """Make every error of `app`, also FastAPI's own, answer in OpenAI's shape."""

    async def api_error(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, ApiError)
        return JSONResponse(error.body(), status_code=error.status, headers=error.headers())

    async def http_error(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        kind = "server_error" if error.status_code >= 500 else "invalid_request_error"
        body = {"error": {"message": str(error.detail), "type": kind, "param": None, "code": None}}
        return JSONResponse(body, status_code=error.status_code, headers=error.headers)

    async def invalid(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        faults = [_fault(one) for one in error.errors()]
        message = "; ".join(f"{where}: {what}" if where else what for where, what in faults)
        return JSONResponse(BadRequest(message, param=faults[0][0]).body(), status_code=400)

    async def unexpected(_: Request, error: Exception) -> JSONResponse:
        """It is raised on, so that the log has it."""
        fault = Unexpected(f"joulegate failed with {type(error).__name__}: a mistake in it, see its log")
        return JSONResponse(fault.body(), status_code=fault.status)

    app.add_exception_handler(ApiError, api_error)
    app.add_exception_handler(Exception, unexpected)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(RequestValidationError, invalid)
