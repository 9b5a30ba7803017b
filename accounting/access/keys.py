"""What a virtual key is: whom it belongs to, what it may do, how its secret is made and known again.

A secret is `sk-jg-` and 256 random bits. Of it only the SHA-256 is kept. A slow hash (scrypt, Argon2) guards
what people can remember against guessing; 2**256 values cannot be guessed, however quick the hash, and a slow
one would be paid for at every request.
"""

from __future__ import annotations

from base64 import urlsafe_b64encode
from hashlib import sha256
from os import urandom
from typing import Literal

import msgspec

PREFIX = "sk-jg-"
SECRET_BYTES = 32
DEFAULT_PROJECT = "default"

ScopeKind = Literal["key", "project", "team"]
"""What a limit can be on."""


class Limits(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """None: no such limit. Energies in microjoules; days and months are those of UTC."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    parallel_requests: int | None = None
    uj_per_day: int | None = None
    uj_per_month: int | None = None


NO_LIMITS = Limits()


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """A key without its secrets. Times in UTC microseconds."""

    id: str
    name: str
    hint: str
    """What may be shown of its newest secret."""
    project: str = DEFAULT_PROJECT
    team: str | None = None
    user_id: str | None = None
    models: list[str] | None = None
    """Patterns, with `*` and `?`, of the models that it may ask for; None: all."""
    any_tenant: bool = False
    """Whether requests may name whom to charge; else it is the project."""
    created_us: int
    expires_us: int | None = None
    revoked_us: int | None = None

    def usable(self, now_us: int) -> bool:
        return self.revoked_us is None and (self.expires_us is None or now_us < self.expires_us)


class Secret(msgspec.Struct, frozen=True, kw_only=True):
    """A secret of a key, as its hash. One that was replaced stays good until `expires_us`."""

    hash: str
    key: str
    created_us: int
    expires_us: int | None = None


class Keyring(msgspec.Struct, kw_only=True):
    """All keys and limits at one time. `version` grows with every change."""

    version: int = 0
    keys: list[Key] = []
    secrets: list[Secret] = []
    limits: dict[str, Limits] = {}
    """By `scope_name`."""


def scope_name(kind: ScopeKind, name: str) -> str:
    """`key/ID`, `project/NAME` or `team/NAME`."""
    return f"{kind}/{name}"


def new_id() -> str:
    return f"key_{urandom(8).hex()}"


def new_secret() -> str:
    """To be shown once: nobody can tell it again."""
    return PREFIX + urlsafe_b64encode(urandom(SECRET_BYTES)).rstrip(b"=").decode()


def digest(secret: bytes) -> str:
    """What is kept of a secret, in hexadecimal."""
    return sha256(secret).hexdigest()


def hint_of(secret: str) -> str:
    """The secret with its middle left out: enough to tell two apart, 24 of 256 bits."""
    return f"{PREFIX}...{secret[-4:]}"
