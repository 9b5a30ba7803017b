"""Refusals on their way from the main process to a worker: its client gets the very same error."""

from __future__ import annotations

from accounting.access.keys import Key
from proxy.errors import ApiError, Forbidden, TooManyRequests, Unauthorized
from proxy.workers.messages import Refused


def told(number: int, key: Key | None, error: ApiError) -> Refused:
    """The error as a message; what the gate raises (proxy/access/errors.py)."""
    too_many = error if isinstance(error, TooManyRequests) else None
    return Refused(
        number=number,
        key=key,
        status=error.status,
        message=error.message,
        kind=error.kind,
        code=error.code,
        param=error.param,
        retry_after_s=error.retry_after_s,
        reason="" if too_many is None else too_many.reason,
        again=too_many is None or too_many.again,
        limits=[] if too_many is None else list(too_many.more.items()),
    )


def error_of(refused: Refused) -> ApiError:
    """The message as the error that it was."""
    if refused.status != TooManyRequests.status:
        kind = Unauthorized if refused.status == Unauthorized.status else Forbidden
        return kind(refused.message, param=refused.param, code=refused.code)
    error = TooManyRequests(
        refused.message,
        kind=refused.kind,
        code=refused.code or TooManyRequests.default_code,
        reason=refused.reason,
        retry_after_s=refused.retry_after_s or 0.0,
        again=refused.again,
    )
    error.more = dict(refused.limits)
    return error
