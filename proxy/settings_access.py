"""The settings of who may use the proxy."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, model_validator

from accounting.access.keys import digest
from proxy.settings_base import Group

SHORTEST = 16
"""Characters of an admin key: people make it, so it could be too easy to guess."""


class Access(Group):
    enabled: bool = Field(
        False,
        description="Whether a key is asked for (docs/access.md). Without, whoever reaches the port may use"
        " everything.",
    )
    open_to_everyone_on_the_network: bool = Field(
        False, description="Listen on other addresses than loopback although no key is asked for."
    )
    admin_key: SecretStr | None = Field(
        None,
        description="Secret for making and revoking keys over HTTP and for all figures; at least 16"
        " characters, best given in the environment.",
    )
    admin_key_file: Path | None = Field(None, description="File with that secret.")
    metrics: Literal["admin", "everyone"] = Field(
        "admin", description="Who may read /metrics when keys are asked for."
    )
    health: Literal["admin", "everyone"] = Field("everyone", description="The same for /health and /ready.")
    body_user: Literal["ignore", "hash", "plain"] = Field(
        "ignore",
        description="What becomes of `safety_identifier` or `user` in a body where the key names no user: a"
        " record's user_id is not set, is a hash of it, or is the text itself.",
    )
    first_request_joules: float | None = Field(
        None,
        gt=0,
        description="What a request under a budget is expected to cost while nothing is known of its model;"
        " when left out as much as on the dearest model measured, or all that is left of the budget.",
    )
    refresh_s: float = Field(
        2.0, ge=0.1, le=3600, description="How often to look for keys that were changed elsewhere."
    )

    @model_validator(mode="after")
    def _sound(self) -> Access:
        if self.admin_key is not None and self.admin_key_file is not None:
            raise ValueError("give admin_key or admin_key_file, not both")
        self.admin_digest()
        return self

    def admin_digest(self) -> str | None:
        """Of the admin key, where there is one. Raises ValueError."""
        if self.admin_key_file is not None:
            secret = read_secret(self.admin_key_file, "admin_key_file")
        elif self.admin_key is not None:
            secret = self.admin_key.get_secret_value()
        else:
            return None
        if len(secret) < SHORTEST:
            raise ValueError(f"the admin key has to have at least {SHORTEST} characters")
        return digest(secret.encode())


def read_secret(path: Path, name: str) -> str:
    """The first line of a file. Raises ValueError, in whose message is nothing of what is in it."""
    try:
        return path.read_text().strip().partition("\n")[0]
    except OSError as error:
        raise ValueError(f"{name}: {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{name}: {path} is not text") from None


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens there."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
