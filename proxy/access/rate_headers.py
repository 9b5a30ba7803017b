"""The `x-ratelimit-*` headers: of each kind of limit the one with the least left, after this request."""

from __future__ import annotations

from collections.abc import Sequence
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
    _rate(found, b"requests", [s.requests for s in scopes if s.requests is not None], now_us)
    _rate(found, b"tokens", [s.tokens for s in scopes if s.tokens is not None], now_us)
    budgets: list[tuple[int, int, Reason]] = []
    for scope in scopes:
        limits, held_uj = scope.limits, scope.reserved_uj
        if limits.uj_per_day is not None:
            left_uj = limits.uj_per_day - scope.day_uj - held_uj
            budgets.append((left_uj, limits.uj_per_day, "joules_day"))
        if limits.uj_per_month is not None:
            left_uj = limits.uj_per_month - scope.month_uj - held_uj
            budgets.append((left_uj, limits.uj_per_month, "joules_month"))
    if budgets:
        left_uj, limit_uj, reason = min(budgets)
        ends_s = gate.ends_s(reason, now_us)
        _three(found, b"joules", b"%g" % (limit_uj / 1e6), b"%.3f" % max(left_uj / 1e6, 0.0), ends_s)
    return found


def _rate(found: list[Header], name: bytes, buckets: list[Bucket], now_us: int) -> None:
    if buckets:
        bucket = min(buckets, key=lambda b: b.level(now_us)) if len(buckets) > 1 else buckets[0]
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
