"""The admin API: keys and limits. The admin key is asked for before these are reached (access/surface.py);
any other key may read its own limits, and who it is.

POST   /v1/keys               make one; the answer has the secret, this once
GET    /v1/keys               all, in pages
GET    /v1/keys/{id}          one
POST   /v1/keys/{id}          change it
POST   /v1/keys/{id}/rotate   a new secret
DELETE /v1/keys/{id}          revoke it
GET    /v1/limits             what keys, projects and teams may use, and have used; a key sees its own
PUT    /v1/limits/{kind}/{name}
GET    /v1/access             who asks, as joulegate sees it
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Literal, TypeVar

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.routing import APIRoute

from accounting.access.keys import NO_LIMITS, Key, Keyring, Limits, scope_name
from accounting.access.store import NoSuchKey
from accounting.store.engine import StoreError
from proxy.access.access import Access
from proxy.access.scope import Scope
from proxy.access.surface import holder_of
from proxy.errors import NotFound
from proxy.key_views import (
    AccessView,
    KeyChanges,
    KeyDeleted,
    KeyList,
    KeyView,
    KeyWithSecret,
    LimitsView,
    NewKey,
    Rotation,
    ScopeList,
    ScopeView,
    key_view,
    key_with_secret,
)
from proxy.openapi import errors_of
from proxy.routes.energy import StoreUnavailable

T = TypeVar("T")


class _KeyRoute(APIRoute):
    """Says that keys are off before anything is said of what was sent."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        answer = super().get_route_handler()

        async def where_keys_are(request: Request) -> Response:
            _access(request)
            return await answer(request)

        return where_keys_are


router = APIRouter(prefix="/v1", tags=["keys"], responses=errors_of(NotFound), route_class=_KeyRoute)
everywhere = APIRouter()
"""Of routes that answer without keys, too."""

KeyId = Annotated[str, Path(description="id of a key", max_length=64)]


def _access(request: Request) -> Access:
    access: Access | None = request.app.state.access
    if access is None:
        raise NotFound("keys are not asked for here: set access.enabled")
    return access


@contextmanager
def _errors(param: str) -> Iterator[None]:
    try:
        yield
    except NoSuchKey as error:
        raise NotFound(f"there is no key {error}, or it is revoked", param=param) from error
    except StoreError as error:
        raise StoreUnavailable(str(error)) from error


async def _change(access: Access, change: Callable[[], T], param: str = "id") -> T:
    """Do it in a worker thread, and go by it at once. `param`: where the key was named."""
    with _errors(param):
        done = await run_in_threadpool(change)
    await access.keeper.look()
    return done


def _limits(keyring: Keyring, key: Key) -> Limits:
    return keyring.limits.get(scope_name("key", key.id), NO_LIMITS)


@router.post("/keys")
async def create_key(request: Request, new: NewKey) -> KeyWithSecret:
    """A new key. The secret in the answer is told to nobody again."""
    access = _access(request)
    limits = new.limits.limits()
    key, secret = await _change(
        access,
        lambda: access.keeper.store.create(
            new.name,
            project=new.project,
            team=new.team,
            user_id=new.user_id,
            models=new.models,
            any_tenant=new.any_tenant,
            expires_us=_us(new.expires_at),
            limits=limits,
        ),
    )
    return key_with_secret(key, limits, secret)


@router.get("/keys")
async def list_keys(
    request: Request,
    project: Annotated[str | None, Query(description="only of this project")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    after: Annotated[str | None, Query(description="last_id of the page before")] = None,
) -> KeyList:
    """All keys, revoked ones too, oldest first."""
    keyring = _access(request).gate.keyring
    keys = [key for key in keyring.keys if project is None or key.project == project]
    if after is not None:
        place = next((n for n, key in enumerate(keys) if key.id == after), None)
        if place is None:
            raise NotFound(f"there is no key {after!r}", param="after")
        keys = keys[place + 1 :]
    page = [key_view(key, _limits(keyring, key)) for key in keys[:limit]]
    first, last = (page[0].id, page[-1].id) if page else (None, None)
    return KeyList(data=page, first_id=first, last_id=last, has_more=len(keys) > limit)


@router.get("/keys/{id}")
async def read_key(request: Request, id: KeyId) -> KeyView:
    """One key."""
    keyring = _access(request).gate.keyring
    key = next((key for key in keyring.keys if key.id == id), None)
    if key is None:
        raise NotFound(f"there is no key {id!r}", param="id")
    return key_view(key, _limits(keyring, key))


@router.post("/keys/{id}")
async def change_key(request: Request, id: KeyId, changes: KeyChanges) -> KeyView:
    """Change what is given. Project and team stay, as what was spent was theirs."""
    access = _access(request)
    given = changes.model_dump(exclude_unset=True, exclude={"limits", "expires_at"})
    given = {
        name: value for name, value in given.items() if value is not None or name in ("models", "user_id")
    }
    if "expires_at" in changes.model_fields_set:
        given["expires_us"] = _us(changes.expires_at)

    def change() -> Key:
        store = access.keeper.store
        key = store.change(id, given)
        if changes.limits is not None:
            store.set_limits(scope_name("key", id), changes.limits.limits())
        return key

    key = await _change(access, change)
    return key_view(key, _limits(access.gate.keyring, key))


@router.post("/keys/{id}/rotate")
async def rotate_key(request: Request, id: KeyId, rotation: Rotation | None = None) -> KeyWithSecret:
    """A new secret for the key; the ones before stay good for the time of grace."""
    access = _access(request)
    grace_us = round((rotation or Rotation()).grace_seconds * 1e6)
    key, secret = await _change(access, lambda: access.keeper.store.rotate(id, grace_us))
    return key_with_secret(key, _limits(access.gate.keyring, key), secret)


@router.delete("/keys/{id}")
async def revoke_key(request: Request, id: KeyId) -> KeyDeleted:
    """Never good again. Its requests stay in usage and costs."""
    access = _access(request)
    await _change(access, lambda: access.keeper.store.revoke(id))
    return KeyDeleted(id=id)


@router.get("/limits")
async def list_limits(request: Request) -> ScopeList:
    """What keys, projects and teams may use, and what they have used. A key sees what limits itself."""
    gate = _access(request).gate
    gate.keep_time()
    key = holder_of(request.scope.get("state", {})).key
    scopes = gate.scopes.values() if key is None else gate.scopes_of(key.id)
    names = _names(gate.keyring)
    return ScopeList(data=[_scope_view(scope, names) for scope in sorted(scopes, key=lambda one: one.name)])


@router.put("/limits/{kind}/{name}")
async def set_limits(
    request: Request,
    kind: Literal["key", "project", "team"],
    name: Annotated[str, Path(min_length=1, max_length=200)],
    limits: LimitsView,
) -> ScopeView:
    """Replace the limits on one of them; null or left out: no such limit. The key has to be there."""
    access = _access(request)
    scope = scope_name(kind, name)
    await _change(access, lambda: access.keeper.store.set_limits(scope, limits.limits()), param="name")
    found = access.gate.scopes.get(scope)
    return _scope_view(found if found is not None else _nobody(access, scope), _names(access.gate.keyring))


@everywhere.get("/access")
async def read_access(request: Request) -> AccessView:
    """Who asks: whether everything is shown, or the figures of which project."""
    key = holder_of(request.scope.get("state", {})).key
    keys = request.app.state.access is not None
    if key is None:
        return AccessView(keys=keys, admin=True, key=None, name=None, project=None, team=None)
    return AccessView(keys=keys, admin=False, key=key.id, name=key.name, project=key.project, team=key.team)


router.include_router(everywhere)


def _nobody(access: Access, name: str) -> Scope:
    """A scope that no key belongs to yet."""
    scope = Scope(name, access.gate.periods)
    scope.limits = access.gate.keyring.limits.get(name, NO_LIMITS)
    return scope


def _names(keyring: Keyring) -> dict[str, str]:
    """Keys' names for people, by scope."""
    return {scope_name("key", key.id): key.name for key in keyring.keys}


def _scope_view(scope: Scope, names: dict[str, str]) -> ScopeView:
    return ScopeView(
        scope=scope.name,
        name=names.get(scope.name),
        limits=LimitsView.of(scope.limits),
        spent_joules_day=scope.day_uj / 1e6,
        spent_joules_month=scope.month_uj / 1e6,
        reserved_joules=scope.reserved_uj / 1e6,
        requests_in_flight=scope.parallel,
    )


def _us(unix_s: float | None) -> int | None:
    return None if unix_s is None else round(unix_s * 1e6)
