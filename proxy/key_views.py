"""What the admin API of keys takes and answers. Names are OpenAI's where it has them; times unix seconds."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from accounting.access.keys import DEFAULT_PROJECT, Key, Limits
from proxy.settings_base import ONE_LINE

Name = Annotated[str, Field(min_length=1, max_length=200, pattern=ONE_LINE)]
Patterns = Annotated[list[Annotated[str, Field(min_length=1, max_length=256)]], Field(max_length=100)]
UnixTime = Annotated[float, Field(gt=0, lt=253_402_300_800)]
Count = Annotated[int, Field(ge=0, le=10**12)]
Joules = Annotated[float, Field(ge=0, le=10**12, allow_inf_nan=False)]

TAKEN = ConfigDict(extra="forbid", strict=True)
"""For what is taken: `false` is no budget of 0 J, and "10" no number."""


class LimitsView(BaseModel):
    model_config = TAKEN

    requests_per_minute: Count | None = Field(None, description="requests in a minute; null: no limit")
    tokens_per_minute: Count | None = Field(None, description="tokens of prompts and answers in a minute")
    parallel_requests: Count | None = Field(None, description="requests under way at one time")
    joules_per_day: Joules | None = Field(None, description="GPU energy in a day of UTC, joules")
    joules_per_month: Joules | None = Field(None, description="GPU energy in a month of UTC, joules")

    def limits(self) -> Limits:
        return Limits(
            requests_per_minute=self.requests_per_minute,
            tokens_per_minute=self.tokens_per_minute,
            parallel_requests=self.parallel_requests,
            uj_per_day=_uj(self.joules_per_day),
            uj_per_month=_uj(self.joules_per_month),
        )

    @classmethod
    def of(cls, limits: Limits) -> LimitsView:
        # Not checked: what is stored is shown, also where it was stored under other bounds.
        return cls.model_construct(
            requests_per_minute=limits.requests_per_minute,
            tokens_per_minute=limits.tokens_per_minute,
            parallel_requests=limits.parallel_requests,
            joules_per_day=_joules(limits.uj_per_day),
            joules_per_month=_joules(limits.uj_per_month),
        )


class NewKey(BaseModel):
    model_config = TAKEN

    name: Name = Field(description="for people")
    project: Name = Field(DEFAULT_PROJECT, description="who is charged")
    team: Name | None = Field(None, description="team of the project, for limits")
    user_id: Name | None = Field(None, description="whose key it is")
    models: Patterns | None = Field(None, description="models it may ask for, with * and ?; null: all")
    any_tenant: bool = Field(False, description="whether its requests may name whom to charge")
    expires_at: UnixTime | None = Field(None, description="when it ends, unix seconds; null: never")
    limits: LimitsView = Field(LimitsView(), description="limits on this key")


class KeyChanges(BaseModel):
    """What is left out stays as it is."""

    model_config = TAKEN

    name: Name | None = Field(None, description="for people")
    user_id: Name | None = Field(None, description="whose key it is")
    models: Patterns | None = Field(None, description="models it may ask for, with * and ?; null: all")
    any_tenant: bool | None = Field(None, description="whether its requests may name whom to charge")
    expires_at: UnixTime | None = Field(None, description="when it ends, unix seconds; null: never")
    limits: LimitsView | None = Field(None, description="limits on this key, in place of those it has")


class Rotation(BaseModel):
    model_config = TAKEN

    grace_seconds: Annotated[float, Field(ge=0, le=366 * 86_400)] = Field(
        86_400, description="how long the secrets before stay good, seconds"
    )


class KeyView(BaseModel):
    object: Literal["organization.project.api_key"] = "organization.project.api_key"
    id: str = Field(description="names the key in records, usage and costs")
    name: str = Field(description="for people")
    redacted_value: str = Field(description="its secret with the middle left out")
    project: str = Field(description="who is charged")
    team: str | None = Field(description="team of the project, for limits")
    user_id: str | None = Field(description="whose key it is")
    models: list[str] | None = Field(description="models it may ask for, with * and ?; null: all")
    any_tenant: bool = Field(description="whether its requests may name whom to charge")
    created_at: float = Field(description="unix seconds")
    expires_at: float | None = Field(description="unix seconds; null: never")
    revoked_at: float | None = Field(description="unix seconds; null: it is not")
    limits: LimitsView = Field(description="limits on this key")


class KeyWithSecret(KeyView):
    value: str = Field(description="the secret, told this once")


class KeyList(BaseModel):
    object: Literal["list"] = "list"
    data: list[KeyView] = Field(description="keys, oldest first")
    first_id: str | None = Field(description="id of the first")
    last_id: str | None = Field(description="id of the last; pass it as `after` to get the next page")
    has_more: bool = Field(description="whether there are more")


class KeyDeleted(BaseModel):
    object: Literal["organization.project.api_key.deleted"] = "organization.project.api_key.deleted"
    id: str = Field(description="of the key")
    deleted: Literal[True] = True


class ScopeView(BaseModel):
    object: Literal["limits"] = "limits"
    scope: str = Field(description="key/ID, project/NAME or team/NAME")
    name: str | None = Field(description="of a key, for people; null: it is in `scope`")
    limits: LimitsView = Field(description="what is allowed")
    spent_joules_day: float = Field(description="settled since the day of UTC began, joules")
    spent_joules_month: float = Field(description="settled since the month began, joules")
    reserved_joules: float = Field(description="reserved for requests that are not settled, joules")
    requests_in_flight: int = Field(description="under way now")


class ScopeList(BaseModel):
    object: Literal["list"] = "list"
    data: list[ScopeView] = Field(description="every scope that has a key or a limit")


class AccessView(BaseModel):
    object: Literal["access"] = "access"
    keys: bool = Field(description="whether keys are asked for")
    admin: bool = Field(description="whether whoever asks sees everything")
    key: str | None = Field(description="id of the key that was shown; null: of the admin, or none")
    name: str | None = Field(description="of this key, for people; null without")
    project: str | None = Field(description="the project whose figures this key sees; null: all")
    team: str | None = Field(description="team of this key; null without")


def key_view(key: Key, limits: Limits) -> KeyView:
    return KeyView(**_fields(key, limits))


def key_with_secret(key: Key, limits: Limits, secret: str) -> KeyWithSecret:
    return KeyWithSecret(**_fields(key, limits), value=secret)


def _fields(key: Key, limits: Limits) -> dict[str, object]:
    return {
        "id": key.id,
        "name": key.name,
        "redacted_value": key.hint,
        "project": key.project,
        "team": key.team,
        "user_id": key.user_id,
        "models": key.models,
        "any_tenant": key.any_tenant,
        "created_at": key.created_us / 1e6,
        "expires_at": _seconds(key.expires_us),
        "revoked_at": _seconds(key.revoked_us),
        "limits": LimitsView.of(limits),
    }


def _seconds(t_us: int | None) -> float | None:
    return None if t_us is None else t_us / 1e6


def _joules(uj: int | None) -> float | None:
    return None if uj is None else uj / 1e6


def _uj(joules: float | None) -> int | None:
    return None if joules is None else round(joules * 1e6)
