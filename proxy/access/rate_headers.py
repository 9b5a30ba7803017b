"""The `x-ratelimit-*` headers: of each kind of limit the one with the least left, after this request."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import TYPE_CHECKING

from proxy.access.bucket import Bucket
from proxy.access.scope import Reason, Scope
from proxy.wire.head import Header

if TYPE_CHECKING:
    from proxy.access.gate import Gate


def rate_headers(gate: Gate, scopes: Sequence[Scope]) -> list[Header]:
    """None where nothing is limited. Joules are those of the day or the month, whichever has less left."""
    now_us = gate.now_us()
    found: list[Header] = []
    requests: Bucket | None = None
    tokens: Bucket | None = None
    left_uj, limit_uj, reason = NO_BUDGET
    for scope in scopes:
        if (bucket := scope.requests) is not None and (requests is None or _less(bucket, requests, now_us)):
            requests = bucket
        if (bucket := scope.tokens) is not None and (tokens is None or _less(bucket, tokens, now_us)):
            tokens = bucket
        day_uj, month_uj = scope.limits.uj_per_day, scope.limits.uj_per_month
        if day_uj is not None and (rest_uj := day_uj - scope.day_uj - scope.reserved_uj) < left_uj:
            left_uj, limit_uj, reason = rest_uj, day_uj, "joules_day"
        if month_uj is not None and (rest_uj := month_uj - scope.month_uj - scope.reserved_uj) < left_uj:
            left_uj, limit_uj, reason = rest_uj, month_uj, "joules_month"
    if requests is not None:
        _rate(found, b"requests", requests, now_us)
    if tokens is not None:
        _rate(found, b"tokens", tokens, now_us)
    if limit_uj >= 0:
        limit, left = b"%g" % (limit_uj / 1e6), b"%.3f" % max(left_uj / 1e6, 0.0)
        _three(found, b"joules", limit, left, gate.ends_s(reason, now_us))
    return found


NO_BUDGET: tuple[float, int, Reason] = (inf, -1, "joules_day")


def _less(one: Bucket, other: Bucket, now_us: int) -> bool:
    return one.level(now_us) < other.level(now_us)


def _rate(found: list[Header], name: bytes, bucket: Bucket, now_us: int) -> None:
    left = max(int(bucket.level(now_us)), 0)
    _three(found, name, b"%d" % bucket.limit, b"%d" % left, bucket.full_s(now_us))


def _three(found: list[Header], name: bytes, limit: bytes, left: bytes, reset_s: float) -> None:
    found += [
        (b"x-ratelimit-limit-" + name, limit),
        (b"x-ratelimit-remaining-" + name, left),
        (b"x-ratelimit-reset-" + name, duration(reset_s)),
    ]


def duration(seconds: float) -> bytes:
    """As OpenAI writes it: `6m0s`, `1.5s`, `120ms`."""
    if seconds < 1:
        return b"%dms" % round(seconds * 1e3)
    whole = int(seconds)
    if whole < 60:
        return b"%gs" % round(seconds, 3)
    hours, rest = divmod(whole, 3600)
    minutes, left = divmod(rest, 60)
    return (b"%dh%dm%ds" % (hours, minutes, left)) if hours else b"%dm%ds" % (minutes, left)
