"""Lets requests in: knows the key, checks what it may, reserves what the request is expected to use."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from fnmatch import translate
from hmac import compare_digest
from typing import Protocol

from accounting.access.keys import NO_LIMITS, Key, Keyring, digest, scope_name
from accounting.access.spent import Periods, periods_of
from accounting.events import Media
from accounting.store.sums import DAY_US
from proxy.access import errors
from proxy.access.expected import Expected, Size, dearest_uj
from proxy.access.grant import Grant
from proxy.access.holder import ADMIN, Holder, presented_key
from proxy.access.rate_headers import rate_headers
from proxy.access.scope import Reason, Scope
from proxy.ask import Headers
from proxy.errors import ApiError, TooManyRequests

MARGIN = 2
"""Several requests under a budget count so many times what is reserved for them: errors of requests at one
time go together, as they share a GPU that may be slow just then. One alone counts once. A margin learnt from
how far the last ones were off would be smaller, and wrong just when it matters: when the load changes."""

SOON_S = 1.0
"""When to try again where it depends on requests in flight."""


class Asked(Protocol):
    """What matters here of a request: an `Ask`, or what a worker tells of one."""

    path: str
    model: str | None
    accounted: bool
    sequences: int
    max_tokens: int | None
    media: Media | None


class Gate:
    """`use` a keyring, then `know` and `admit`. Raises what is in `proxy/access/errors.py`."""

    def __init__(
        self,
        now_us: Callable[[], int],
        expected: Expected,
        *,
        admin: str | None,
        output_tokens: int,
        first_uj: int | None = None,
    ) -> None:
        """`admin`: digest of the admin key. `output_tokens`: of an answer of which nothing is known.
        `first_uj`: what a request is expected to cost while nothing is known of its model; None: as much as
        on the dearest model there is, or all that is left where that is less, so that it goes alone.
        """
        self.now_us, self.expected = now_us, expected
        self._admin, self._output_tokens, self._first_uj = admin, output_tokens, first_uj
        self._holders: dict[str, tuple[Holder, int | None]] = {}
        self.keyring = Keyring()
        self.scopes: dict[str, Scope] = {}
        self._of_key: dict[str, Sequence[Scope]] = {}
        self._periods: Periods
        self._day_ends_us = self._month_ends_us = 0
        self._begin_day(now_us())
        self.rejected: defaultdict[str, int] = defaultdict(int)
        """By the limit that was reached, or the error's code."""
        self.follow: Callable[[int, Grant], None] = lambda handle, grant: None
        """Told of each request that was let in and started, with the accountant's handle."""

    # keys

    def use(self, keyring: Keyring) -> None:
        """These are the keys and limits from now on; what is used counts on."""
        now_us = self.now_us()
        keys = {key.id: key for key in keyring.keys}
        self._of_key = {key.id: self._scopes(key) for key in keyring.keys}
        for name, scope in self.scopes.items():
            scope.use(keyring.limits.get(name, NO_LIMITS), now_us)
        holders = {id: self._holder(key) for id, key in keys.items()}
        self._holders = {
            secret.hash: (holders[secret.key], _first(secret.expires_us, keys[secret.key].expires_us))
            for secret in keyring.secrets
            if secret.key in keys and keys[secret.key].revoked_us is None
        }
        self.keyring = keyring

    def _scopes(self, key: Key) -> Sequence[Scope]:
        names = [scope_name("key", key.id), scope_name("project", key.project)]
        if key.team is not None:
            names.append(scope_name("team", key.team))
        for name in names:
            if name not in self.scopes:
                self.scopes[name] = Scope(name, self._periods)
        return [self.scopes[name] for name in names]

    def _holder(self, key: Key) -> Holder:
        scopes = self._of_key[key.id]
        counted = any(s.limits_energy or s.tokens is not None for s in scopes)
        patterns = key.models
        may_ask = (
            None if patterns is None else re.compile("|".join(map(translate, patterns)) or r"(?!)").match
        )
        return Holder(key, scopes, may_ask, counted)

    def scopes_of(self, key: str) -> Sequence[Scope]:
        """All that limits a key; none where nobody knows it."""
        return self._of_key.get(key, ())

    def know(self, headers: Headers) -> Holder:
        """Whose key this is. Raises Unauthorized."""
        presented = presented_key(headers)
        return self.known(None if presented is None else digest(presented))

    def known(self, hashed: str | None) -> Holder:
        """Whose key has this hash; None: no key was presented. Raises Unauthorized.

        The presented key is hashed and the hash looked up: how long that takes says nothing of a key's
        bytes. People make the admin key, so that not even its hash may be learnt by trying.
        """
        try:
            if hashed is None:
                raise errors.no_key()
            found = self._holders.get(hashed)
            if found is not None and (found[1] is None or self.now_us() < found[1]):
                return found[0]
            if self._admin is not None and compare_digest(hashed, self._admin):
                return ADMIN
            raise errors.unknown_key()
        except ApiError as refusal:
            self._count(refusal)
            raise

    # requests

    def admit(self, holder: Holder, ask: Asked, body_bytes: int, *, tunnel: bool = False) -> Grant:
        """Reserve what the request is expected to use. Raises Forbidden, TooManyRequests."""
        try:
            return self._admit(holder, ask, body_bytes, tunnel)
        except ApiError as refusal:
            self._count(refusal)
            if isinstance(refusal, TooManyRequests):
                refusal.more = dict(rate_headers(self, holder.scopes))
            raise

    def _admit(self, holder: Holder, ask: Asked, body_bytes: int, tunnel: bool) -> Grant:
        key = holder.key
        if key is None:
            raise errors.not_for_admin()
        if holder.may_ask is not None:
            if ask.model is None and (ask.accounted or tunnel):
                raise errors.wrong_model(None)
            if ask.model is not None and not holder.may_ask(ask.model):
                raise errors.wrong_model(ask.model)
        if tunnel and holder.counted:
            raise errors.no_tunnel()
        now_us = self.now_us()
        self.keep_time()
        if not ask.accounted:
            self._check(holder, 0, now_us)
            return Grant(self, holder.scopes, None, 0, 0)
        size = Size(ask.path, ask.model or "", body_bytes, ask.max_tokens, ask.sequences, ask.media)
        tokens = uj = 0
        if holder.counted:
            tokens = size.prompt_tokens + self.expected.answer_tokens(size, self._output_tokens)
            uj = self._expected_uj(size, tokens, holder.scopes)
        self._check(holder, tokens, now_us)
        self._check_energy(holder.scopes, uj, now_us)
        return Grant(self, holder.scopes, size, tokens, uj)

    def _expected_uj(self, size: Size, tokens: int, scopes: Sequence[Scope]) -> int:
        known = self.expected.uj(size)
        if known is None:
            known = self._first_uj
        if known is not None:
            return known
        lefts = [left for scope in scopes if (left := scope.left_uj()) is not None]
        return max(min(*lefts, dearest_uj(size, tokens)), 1) if lefts else 0

    def _check(self, holder: Holder, tokens: int, now_us: int) -> None:
        for scope in holder.scopes:
            limits = scope.limits
            most = limits.parallel_requests
            if most is not None and scope.parallel >= most:
                raise errors.too_many("parallel", scope.name, most, SOON_S)
            if scope.requests is not None and (wait_s := scope.requests.wait_s(1, now_us)) > 0:
                raise errors.too_many("requests", scope.name, scope.requests.limit, wait_s)
            if scope.tokens is not None and tokens and (wait_s := scope.tokens.wait_s(tokens, now_us)) > 0:
                detail = f" This request may use {tokens}."
                raise errors.too_many("tokens", scope.name, scope.tokens.limit, wait_s, detail)

    def _check_energy(self, scopes: Sequence[Scope], uj: int, now_us: int) -> None:
        for scope in scopes:
            limits, reserved_uj = scope.limits, scope.reserved_uj
            more_uj = uj if reserved_uj <= 0 else MARGIN * (reserved_uj + uj)
            day_uj, month_uj = limits.uj_per_day, limits.uj_per_month
            if day_uj is not None and scope.day_uj + more_uj > day_uj:
                raise self._over("joules_day", scope, day_uj, scope.day_uj, uj, now_us)
            if month_uj is not None and scope.month_uj + more_uj > month_uj:
                raise self._over("joules_month", scope, month_uj, scope.month_uj, uj, now_us)

    def _over(
        self, reason: Reason, scope: Scope, limit_uj: int, spent_uj: int, uj: int, now_us: int
    ) -> ApiError:
        detail = (
            f" {spent_uj / 1e6:.6g} J are spent, {scope.reserved_uj / 1e6:.6g} J reserved for requests under"
            f" way, and this one may cost {uj / 1e6:.6g} J."
        )
        if spent_uj + uj <= limit_uj and spent_uj < limit_uj:
            return errors.too_many(reason, scope.name, limit_uj / 1e6, SOON_S, detail)
        wait_s = self.ends_s(reason, now_us)
        return errors.used_up(reason, scope.name, limit_uj / 1e6, wait_s, detail)

    def ends_s(self, reason: Reason, now_us: int) -> float:
        """How long this day or this month still lasts."""
        ends_us = self._month_ends_us if reason == "joules_month" else self._day_ends_us
        return (ends_us - now_us) / 1e6

    def keep_time(self) -> None:
        """Begin a new day if it is one: what was spent the day before is not of today."""
        now_us = self.now_us()
        if now_us >= self._day_ends_us:
            self._begin_day(now_us)

    @property
    def periods(self) -> Periods:
        """The day and month that count now."""
        return self._periods

    def _begin_day(self, now_us: int) -> None:
        self._periods = periods_of(now_us)
        self._day_ends_us = (self._periods.day + 1) * DAY_US
        self._month_ends_us = next_month(self._periods) * DAY_US
        for scope in self.scopes.values():
            scope.enter(self._periods)

    def _count(self, refusal: ApiError) -> None:
        reason = refusal.reason if isinstance(refusal, TooManyRequests) else refusal.code
        self.rejected[reason or refusal.kind] += 1


def next_month(periods: Periods) -> int:
    """The day that the next month begins with."""
    return periods_of((periods.month + 31) * DAY_US).month


def _first(one: int | None, other: int | None) -> int | None:
    return other if one is None else one if other is None else min(one, other)
