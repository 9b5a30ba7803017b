"""What is asked of the usage and costs routes: OpenAI's parameters, with their defaults and limits.

Lists may be written as `models=a&models=b`, or with brackets, as OpenAI's clients do: `models[]=a`.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Sequence
from typing import Any, Literal, TypeVar, get_args

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from accounting.billing.usage import Group, Kind, Question
from accounting.store.rollups import BUCKET_US, Bucket
from proxy.errors import BadRequest
from proxy.known_parameters import unknown

LATEST_S = 253_402_300_800
"""Start of the year 10000 in unix seconds."""

Width = Literal["1m", "1h", "1d"]
WIDTHS: dict[Width, Bucket] = {"1m": "minute", "1h": "hour", "1d": "day"}
LIMITS: dict[Width, tuple[int, int]] = {"1m": (60, 1440), "1h": (24, 168), "1d": (7, 31)}
"""Buckets on a page: when nothing is said, and at most."""
COSTS_LIMIT = (7, 180)

_Query = TypeVar("_Query", bound="Paged")


class Paged(BaseModel):
    model_config = ConfigDict(frozen=True)

    start_time: int = Field(ge=0, lt=LATEST_S, description="From when on, unix seconds, inclusive.")
    end_time: int | None = Field(None, ge=1, le=LATEST_S, description="Until when, exclusive; now.")
    project_ids: list[str] | None = Field(None, description="Only of these projects.")
    user_ids: list[str] | None = Field(None, description="Only of these users.")
    api_key_ids: list[str] | None = Field(None, description="Only of these API keys.")
    limit: int | None = Field(None, ge=1, description="Most buckets on a page.")
    page: str | None = Field(None, description="next_page of the page before.")


class UsageQuery(Paged):
    bucket_width: Width = Field("1d", description="Width of a bucket, in UTC.")
    models: list[str] | None = Field(None, description="Only of these models.")


class EmbeddingsQuery(UsageQuery):
    group_by: list[Literal["project_id", "user_id", "api_key_id", "model"]] = Field(
        [], description="Group by any of these together."
    )


class CompletionsQuery(UsageQuery):
    batch: bool | None = Field(
        None, description="Only batch jobs, or only others. There are only others here."
    )
    group_by: list[
        Literal["project_id", "user_id", "api_key_id", "model", "batch", "service_tier", "api_source"]
    ] = Field([], description="Group by any of these together.")


class MediaQuery(UsageQuery):
    sizes: list[str] | None = Field(None, description="Only of these sizes, such as 1024x1024.")
    sources: list[str] | None = Field(None, description="Only of these sources, such as image.generation.")
    group_by: list[Literal["project_id", "user_id", "api_key_id", "model", "size", "source"]] = Field(
        [], description="Group by any of these together."
    )


class CostsQuery(Paged):
    bucket_width: Literal["1d"] = Field("1d", description="Width of a bucket, in UTC.")
    line_items: list[str] | None = Field(None, description="Only of these line items.")
    group_by: list[Literal["project_id", "user_id", "api_key_id", "line_item", "api_source"]] = Field(
        [], description="Group by any of these together."
    )


def parameters(model: type[BaseModel]) -> list[dict[str, Any]]:
    """A query's parameters for the OpenAPI document."""
    schema = model.model_json_schema()
    return [
        {
            "name": name,
            "in": "query",
            "required": name in schema.get("required", ()),
            "description": field.pop("description"),
            "schema": {key: value for key, value in field.items() if key != "title"},
        }
        for name, field in schema["properties"].items()
    ]


def asked(request: Request, model: type[_Query]) -> _Query:
    """The query of a request. Raises BadRequest with the parameter's name."""
    given: dict[str, Any] = {}
    for written, value in request.query_params.multi_items():
        name = written.removesuffix("[]")
        field = model.model_fields.get(name)
        if field is None:
            raise unknown(written, model.model_fields)
        if _is_list(field.annotation):
            given.setdefault(name, []).append(value)
        else:
            given[name] = value
    try:
        query = model.model_validate(given)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        name = str(fault["loc"][0])
        raise BadRequest(f"{name}: {fault['msg']}", param=name) from error
    if query.end_time is not None and query.end_time <= query.start_time:
        raise BadRequest("end_time: has to be later than start_time", param="end_time")
    return query


def _is_list(annotation: Any) -> bool:
    return any(str(part).startswith("list[") for part in (annotation, *get_args(annotation)))


class Page(BaseModel):
    """Which buckets a page has, by their starts in UTC microseconds, and where the next page begins."""

    width_us: int
    starts_us: list[int]
    next_page: str | None

    @property
    def end_us(self) -> int:
        return self.starts_us[-1] + self.width_us if self.starts_us else 0


def page_of(query: Paged, width: Width, limits: tuple[int, int]) -> Page:
    """Buckets lie at multiples of their width; one that the time touches is there, as a whole."""
    usual, most = limits
    if query.limit is not None and query.limit > most:
        raise BadRequest(f"limit: at most {most} for buckets of {width}", param="limit")
    width_us = BUCKET_US[WIDTHS[width]]
    end_s = int(time.time()) + 1 if query.end_time is None else query.end_time
    start_us = query.start_time * 1_000_000 // width_us * width_us
    if query.page is not None:
        start_us = _decode(query.page, start_us, width_us)
    end_us = -(-end_s * 1_000_000 // width_us) * width_us
    last_us = min(end_us, start_us + (query.limit or usual) * width_us)
    return Page(
        width_us=width_us,
        starts_us=list(range(start_us, last_us, width_us)),
        next_page=_encode(last_us) if last_us < end_us else None,
    )


def _encode(start_us: int) -> str:
    return "page_" + base64.urlsafe_b64encode(str(start_us).encode()).decode().rstrip("=")


def _decode(page: str, start_us: int, width_us: int) -> int:
    """Raises BadRequest for what `_encode` did not make for this question."""
    text = page.removeprefix("page_")
    try:
        found = int(base64.urlsafe_b64decode(text.encode() + b"=" * (-len(text) % 4)).decode())
    except ValueError:
        found = -1
    if found < start_us or found % width_us or _encode(found) != page or found > LATEST_S * 1_000_000:
        raise BadRequest("page: pass next_page of the page before", param="page")
    return found


def question(
    kind: Kind, query: UsageQuery, page: Page, groups: Sequence[Group], media: MediaQuery | None = None
) -> Question:
    return Question(
        kind=kind,
        start_us=page.starts_us[0],
        end_us=page.end_us,
        bucket=WIDTHS[query.bucket_width],
        group_by=groups,
        projects=query.project_ids,
        users=query.user_ids,
        api_keys=query.api_key_ids,
        models=query.models,
        sizes=None if media is None else media.sizes,
        sources=None if media is None else media.sources,
    )
