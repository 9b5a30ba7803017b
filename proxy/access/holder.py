"""Whoever presents a key, and what a request holds of limits, as the relay and its workers know them."""

from __future__ import annotations

from base64 import b64decode
from binascii import Error as NotBase64
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from accounting.access.keys import Key
from accounting.events import Usage
from accounting.records import RequestRecord
from proxy.ask import Ask, Headers
from proxy.wire.head import Header

if TYPE_CHECKING:  # workers have no use for what it imports
    from proxy.access.scope import Scope


@dataclass(slots=True)
class Holder:
    """Whoever presented a key. The admin has no key and no scopes; in a worker nobody has scopes."""

    key: Key | None
    scopes: Sequence[Scope] = ()
    may_ask: Callable[[str], object] | None = None
    """Whether it may use a model; None: all."""
    counted: bool = False
    """Whether tokens or joules are limited, so that all it does has to be counted."""

    def mark(self, ask: Ask) -> None:
        """Put down whom the request is for."""
        key = self.key
        if key is None:
            return
        ask.project, ask.api_key = key.project, key.id
        ask.user_id = key.user_id or ask.user_id
        if not (key.any_tenant and ask.tenant):
            ask.tenant = key.project


ADMIN = Holder(None)


class Held(Protocol):
    """What a request holds of its key's limits: a `Grant`, or a worker's way to one."""

    def opened(self, handle: int) -> None: ...
    def headers(self) -> list[Header]: ...
    def end(self, record: RequestRecord | None, usage: Usage | None) -> None: ...


def presented_key(headers: Headers) -> bytes | None:
    """From `Authorization`: `Bearer`, or `Basic` with it as the password (browsers); or from `x-api-key`."""
    given = None
    for name, value in headers:
        if name == b"authorization":
            scheme, _, credentials = value.partition(b" ")
            kind = scheme.lower()
            if kind == b"bearer":
                return credentials.strip()
            if kind == b"basic":
                return _password(credentials)
        elif name == b"x-api-key" and given is None:
            given = value
    return given


def _password(credentials: bytes) -> bytes | None:
    try:
        return b64decode(credentials, validate=True).partition(b":")[2]
    except NotBase64:
        return None
