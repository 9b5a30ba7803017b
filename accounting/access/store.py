"""Keys and limits in the store's tables. Asked and changed by the command line and the admin API only: a
request never waits for SQL.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import msgspec
from sqlalchemy import Connection, Engine, Table, delete, insert, select, update

from accounting.access.keys import (
    DEFAULT_PROJECT,
    NO_LIMITS,
    Key,
    Keyring,
    Limits,
    Secret,
    digest,
    hint_of,
    new_id,
    new_secret,
    scope_name,
)
from accounting.store.engine import store_errors, writing
from accounting.store.schema import AccessKey, AccessLimit, AccessSecret, AccessVersion, stored_text

GRACE_US = 24 * 3_600_000_000
"""A replaced secret stays good for this long, if nothing else is said: a day to hand out the new one."""

_KEYS: Table = AccessKey.__table__  # type: ignore[assignment]
_SECRETS: Table = AccessSecret.__table__  # type: ignore[assignment]
_LIMITS: Table = AccessLimit.__table__  # type: ignore[assignment]
_VERSION: Table = AccessVersion.__table__  # type: ignore[assignment]


class NoSuchKey(Exception):
    """There is no key of this id, or it is revoked."""


class AccessStore:
    """Every method is one transaction, and raises StoreError when the database fails."""

    def __init__(self, engine: Engine, now_us: Callable[[], int]) -> None:
        self._engine, self._now_us = engine, now_us

    def version(self) -> int:
        """Grows with every change."""
        with self._reading() as connection:
            return _version(connection)

    def keyring(self) -> Keyring:
        """All there is, as of one moment."""
        with self._reading() as connection:
            # The version first: what changes after it makes a newer one, and is read again.
            version = _version(connection)
            keys = [
                _key(row._asdict()) for row in connection.execute(select(_KEYS).order_by(_KEYS.c.created_us))
            ]
            secrets = [msgspec.convert(row._asdict(), Secret) for row in connection.execute(select(_SECRETS))]
            limits = {row.scope: _limits(row._asdict()) for row in connection.execute(select(_LIMITS))}
        return Keyring(version=version, keys=keys, secrets=secrets, limits=limits)

    def create(
        self,
        name: str,
        *,
        project: str = DEFAULT_PROJECT,
        team: str | None = None,
        user_id: str | None = None,
        models: list[str] | None = None,
        any_tenant: bool = False,
        expires_us: int | None = None,
        limits: Limits = NO_LIMITS,
    ) -> tuple[Key, str]:
        """A new key and its secret, which nobody can tell again."""
        secret, now_us = new_secret(), self._now_us()
        key = Key(
            id=new_id(),
            name=stored_text(name),
            hint=hint_of(secret),
            project=stored_text(project),
            team=None if team is None else stored_text(team),
            user_id=None if user_id is None else stored_text(user_id),
            models=models,
            any_tenant=any_tenant,
            created_us=now_us,
            expires_us=expires_us,
        )
        with self._changing("cannot make the key") as connection:
            row = msgspec.structs.asdict(key) | {"models": _patterns(models)}
            connection.execute(insert(_KEYS), row)
            _add_secret(connection, key.id, secret, now_us)
            _set_limits(connection, scope_name("key", key.id), limits)
        return key, secret

    def change(self, id: str, changes: Mapping[str, Any]) -> Key:
        """Give a key another `name`, `models`, `any_tenant`, `expires_us` or `user_id`.

        Project and team stay: what was spent with it was theirs. Raises NoSuchKey.
        """
        unknown = set(changes) - {"name", "models", "any_tenant", "expires_us", "user_id"}
        if unknown:
            raise ValueError(f"cannot be changed: {', '.join(sorted(unknown))}")
        values = dict(changes)
        if "models" in values:
            values["models"] = _patterns(values["models"])
        with self._changing("cannot change the key") as connection:
            _live(connection, id)
            if values:
                connection.execute(update(_KEYS).where(_KEYS.c.id == id).values(**values))
            return _live(connection, id)

    def rotate(self, id: str, grace_us: int = GRACE_US) -> tuple[Key, str]:
        """A new secret; the ones before are good for `grace_us` more at most. Raises NoSuchKey."""
        secret, now_us = new_secret(), self._now_us()
        ends_us = now_us + grace_us
        with self._changing("cannot rotate the key") as connection:
            _live(connection, id)
            later = (_SECRETS.c.expires_us.is_(None)) | (_SECRETS.c.expires_us > ends_us)
            old = update(_SECRETS).where(_SECRETS.c.key == id, later)
            connection.execute(old.values(expires_us=ends_us))
            _add_secret(connection, id, secret, now_us)
            connection.execute(update(_KEYS).where(_KEYS.c.id == id).values(hint=hint_of(secret)))
            return _live(connection, id), secret

    def revoke(self, id: str) -> Key:
        """Never good again. Raises NoSuchKey."""
        with self._changing("cannot revoke the key") as connection:
            key = _live(connection, id)
            now_us = self._now_us()
            connection.execute(update(_KEYS).where(_KEYS.c.id == id).values(revoked_us=now_us))
            return msgspec.structs.replace(key, revoked_us=now_us)

    def set_limits(self, scope: str, limits: Limits) -> None:
        """Replace the limits on a scope (`scope_name`). A project or team is whatever is called so; a key has
        to be there: raises NoSuchKey.
        """
        kind, _, name = scope.partition("/")
        with self._changing("cannot set the limits") as connection:
            if kind == "key":
                _live(connection, name)
            _set_limits(connection, stored_text(scope), limits)

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with store_errors(self._engine, "cannot read the keys"), self._engine.connect() as connection:
            if connection.dialect.name == "postgresql":
                connection = connection.execution_options(isolation_level="REPEATABLE READ")
            yield connection

    @contextmanager
    def _changing(self, doing: str) -> Iterator[Connection]:
        with store_errors(self._engine, doing), writing(self._engine) as connection, connection.begin():
            connection.execute(update(_VERSION).values(version=_VERSION.c.version + 1))
            yield connection


def _version(connection: Connection) -> int:
    return connection.scalar(select(_VERSION.c.version)) or 0


def _key(row: Mapping[str, Any]) -> Key:
    models = row["models"]
    return msgspec.convert({**row, "models": None if models is None else msgspec.json.decode(models)}, Key)


def _patterns(models: list[str] | None) -> str | None:
    return None if models is None else msgspec.json.encode(models).decode()


def _limits(row: Mapping[str, Any]) -> Limits:
    return msgspec.convert({name: value for name, value in row.items() if name != "scope"}, Limits)


def _live(connection: Connection, id: str) -> Key:
    row = connection.execute(select(_KEYS).where(_KEYS.c.id == stored_text(id))).one_or_none()
    if row is None or row.revoked_us is not None:
        raise NoSuchKey(id)
    return _key(row._asdict())


def _add_secret(connection: Connection, id: str, secret: str, now_us: int) -> None:
    row = {"hash": digest(secret.encode()), "key": id, "created_us": now_us, "expires_us": None}
    connection.execute(insert(_SECRETS), row)


def _set_limits(connection: Connection, scope: str, limits: Limits) -> None:
    connection.execute(delete(_LIMITS).where(_LIMITS.c.scope == scope))
    if limits != NO_LIMITS:
        connection.execute(insert(_LIMITS), {"scope": scope, **msgspec.structs.asdict(limits)})
