"""What is answered to those who may not, in OpenAI's shape. No message repeats what was presented."""

from __future__ import annotations

from proxy.access.scope import Reason
from proxy.errors import Forbidden, TooManyRequests, Unauthorized

UNKNOWN_KEY = "Incorrect API key provided."
"""Whether a key never existed, is revoked or expired is told in the log, not to whoever presents it."""


def no_key() -> Unauthorized:
    return Unauthorized(
        "You didn't provide an API key. Send it as `Authorization: Bearer KEY`.", code="missing_api_key"
    )


def unknown_key() -> Unauthorized:
    return Unauthorized(UNKNOWN_KEY)


def wrong_model(model: str | None) -> Forbidden:
    if model is None:
        return Forbidden("This key is for certain models: the request has to name one.", param="model")
    return Forbidden(f"This key may not use the model `{model}`.", param="model", code="model_not_found")


def admin_only() -> Forbidden:
    return Forbidden("This needs the admin key.", code="admin_key_required")


def not_for_admin() -> Forbidden:
    return Forbidden(
        "The admin key is for administration: make a key for requests.", code="admin_key_refused"
    )


def no_tunnel() -> Forbidden:
    message = "This key has a limit of tokens or joules, and what passes a WebSocket cannot be counted."
    return Forbidden(message, code="websocket_refused")


WORDS: dict[Reason, str] = {
    "requests": "requests per minute",
    "tokens": "tokens per minute",
    "parallel": "requests at a time",
    "joules_day": "joules per day",
    "joules_month": "joules per month",
}


def too_many(reason: Reason, scope: str, limit: float, wait_s: float, detail: str = "") -> TooManyRequests:
    """It may be tried again after `wait_s`."""
    kind = "tokens" if reason == "tokens" else "joules" if reason.startswith("joules") else "requests"
    message = f"Rate limit reached for {scope}: {limit:g} {WORDS[reason]}.{detail}"
    return TooManyRequests(
        message, kind=kind, code="rate_limit_exceeded", reason=reason, retry_after_s=wait_s
    )


def used_up(reason: Reason, scope: str, limit: float, wait_s: float, detail: str) -> TooManyRequests:
    """The budget is gone, or too small; trying again before the next day or month is of no use."""
    message = f"The budget of {scope} does not allow this: {limit:g} {WORDS[reason]}.{detail}"
    code = "insufficient_quota"
    return TooManyRequests(message, kind=code, code=code, reason=reason, retry_after_s=wait_s, again=False)
