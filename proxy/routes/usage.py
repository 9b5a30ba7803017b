"""OpenAI's usage and costs routes, with joules.

    GET /v1/organization/usage/completions   also embeddings, images, videos
    GET /v1/organization/costs               what days cost, shares of idle energy and the like with it

Parameters, defaults, limits, pages and null fields are OpenAI's (proxy/usage_query.py); what comes beside
them is in proxy/usage_views.py. The figures come from `app.state.billing`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, cast

from fastapi import APIRouter, Request

from accounting.billing.charges import Charge, Component
from accounting.billing.day import plus
from accounting.billing.source import day_us
from accounting.billing.tariff import TariffError
from accounting.billing.terms import Terms
from accounting.billing.units import joules
from accounting.billing.usage import Group, Kind, Sums
from accounting.store.engine import CannotAnswer, StoreError
from proxy.billing import Billing
from proxy.errors import BadRequest
from proxy.routes.energy import StoreUnavailable
from proxy.usage_query import (
    COSTS_LIMIT,
    LIMITS,
    CompletionsQuery,
    CostsQuery,
    EmbeddingsQuery,
    MediaQuery,
    Page,
    asked,
    page_of,
    parameters,
    question,
)
from proxy.usage_views import BucketView, CostsResult, PageView, amount, carbon, common

Told = dict[str, str | None]

LINE_ITEMS: dict[Component, str] = {
    "gpu": "gpu_energy",
    "host": "host_energy",
    "idle": "idle_energy",
    "unattributed": "unattributed_energy",
    "overhead": "overhead_energy",
}


router = APIRouter(prefix="/v1/organization", tags=["usage"])


def _billing(request: Request) -> Billing:
    return cast(Billing, request.app.state.billing)


def _documented(query: type[Any]) -> dict[str, Any]:
    return {"response_model": PageView, "openapi_extra": {"parameters": parameters(query)}}


@router.get("/usage/completions", **_documented(CompletionsQuery))
def usage_completions(request: Request) -> PageView:
    """Requests and tokens of chats, completions, responses and all else that has no route of its own here."""
    query = asked(request, CompletionsQuery)
    fixed = {"batch": False, "service_tier": "default", "api_source": "unlabeled"}

    def result(sums: Sums) -> dict[str, Any]:
        return {
            "object": "organization.usage.completions.result",
            "input_tokens": sums.prompt_tokens or 0,
            "output_tokens": sums.completion_tokens or 0,
            "input_cached_tokens": sums.cached_tokens,
            "num_requests_without_usage": sums.requests - sums.with_usage,
            **{name: value if name in query.group_by else None for name, value in fixed.items()},
        }

    groups = [cast(Group, name) for name in query.group_by if name not in fixed]
    return _usage(request, "completions", query, groups, result, nothing=query.batch is True)


@router.get("/usage/embeddings", **_documented(EmbeddingsQuery))
def usage_embeddings(request: Request) -> PageView:
    """Requests and tokens of embeddings, and of pooling, scores, ranks and classes."""
    query = asked(request, EmbeddingsQuery)

    def result(sums: Sums) -> dict[str, Any]:
        return {
            "object": "organization.usage.embeddings.result",
            "input_tokens": sums.prompt_tokens or 0,
            "num_requests_without_usage": sums.requests - sums.with_usage,
        }

    return _usage(request, "embeddings", query, list(query.group_by), result)


@router.get("/usage/images", **_documented(MediaQuery))
def usage_images(request: Request) -> PageView:
    """Images made."""

    def result(sums: Sums) -> dict[str, Any]:
        return {"object": "organization.usage.images.result", "images": sums.images}

    query = asked(request, MediaQuery)
    return _usage(request, "images", query, list(query.group_by), result)


@router.get("/usage/videos", **_documented(MediaQuery))
def usage_videos(request: Request) -> PageView:
    """Videos made, and how long they are. OpenAI has no such route; it is like that of images."""

    def result(sums: Sums) -> dict[str, Any]:
        return {
            "object": "organization.usage.videos.result",
            "videos": sums.videos,
            "seconds": sums.video_us / 1e6,
        }

    query = asked(request, MediaQuery)
    return _usage(request, "videos", query, list(query.group_by), result)


def _usage(
    request: Request,
    kind: Kind,
    query: CompletionsQuery | EmbeddingsQuery | MediaQuery,
    groups: Sequence[Group],
    result: Callable[[Sums], dict[str, Any]],
    *,
    nothing: bool = False,
) -> PageView:
    billing = _billing(request)
    page = page_of(query, query.bucket_width, LIMITS[query.bucket_width])
    media = query if isinstance(query, MediaQuery) else None
    found: dict[int, dict[tuple[str | None, ...], Sums]] = {}
    if page.starts_us and not nothing:
        found = _answered(lambda: billing.report.ask(question(kind, query, page, groups, media)))
    results: dict[int, list[Any]] = {}
    for t_us, by_key in found.items():
        results[t_us] = []
        for key, sums in by_key.items():
            told: Told = dict(zip(groups, key, strict=True))
            media_fields = {} if media is None else {"size": told.get("size"), "source": told.get("source")}
            results[t_us].append({**result(sums), **common(sums, told, billing.terms), **media_fields})
    return _page(page, results)


@router.get("/costs", **_documented(CostsQuery))
def costs(request: Request) -> PageView:
    """What each UTC day costs by the tariffs, as it is known now. What the operator bears is not in it."""
    query, billing = asked(request, CostsQuery), _billing(request)
    page = page_of(query, query.bucket_width, COSTS_LIMIT)
    by_day: dict[int, dict[tuple[str | None, ...], list[Charge]]] = defaultdict(lambda: defaultdict(list))
    charges: list[Charge] = []
    if page.starts_us:
        charges = _answered(lambda: billing.bills.days(page.starts_us[0], page.end_us))
    for charge in charges:
        told: Told = {
            "project_id": charge.who.project,
            "user_id": charge.who.user,
            "api_key_id": charge.who.api_key,
            "line_item": line_item(charge),
            "api_source": "unlabeled",
        }
        if charge.billed and _wanted(query, told):
            by_day[day_us(charge.day)][tuple(told[name] for name in query.group_by)].append(charge)
    results = {
        t_us: [
            _cost(dict(zip(query.group_by, key, strict=True)), of_key, billing.terms)
            for key, of_key in sorted(by_key.items(), key=lambda item: [part or "" for part in item[0]])
        ]
        for t_us, by_key in by_day.items()
    }
    return _page(page, results)


def line_item(charge: Charge) -> str:
    """The name of what is charged for, such as `llama, gpu_energy`; shares are of no model."""
    item = LINE_ITEMS[charge.component]
    of_model = charge.component in ("gpu", "host") and charge.who.model is not None
    return f"{charge.who.model}, {item}" if of_model else item


def _wanted(query: CostsQuery, told: Told) -> bool:
    filters = {
        "project_id": query.project_ids,
        "user_id": query.user_ids,
        "api_key_id": query.api_key_ids,
        "line_item": query.line_items,
    }
    return all(values is None or told[name] in values for name, values in filters.items())


def _cost(told: Told, charges: Sequence[Charge], terms: Terms) -> dict[str, Any]:
    cost: int | None = 0
    location: int | None = 0
    market: int | None = 0
    for charge in charges:
        cost, location = plus(cost, charge.cost), plus(location, charge.location)
        market = plus(market, charge.market)
    energy_uj, by_item = sum(charge.energy_uj for charge in charges), "line_item" in told
    return CostsResult(
        object="organization.costs.result",
        amount=amount(cost, terms),
        line_item=told.get("line_item"),
        project_id=told.get("project_id"),
        user_id=told.get("user_id"),
        api_key_id=told.get("api_key_id"),
        api_source=told.get("api_source"),
        quantity=float(joules(energy_uj)) if by_item else None,
        quantity_unit="joules" if by_item else None,
        energy_uj=energy_uj,
        carbon_grams_location=carbon(location),
        carbon_grams_market=carbon(market),
    ).model_dump()


def _page(page: Page, results: dict[int, list[Any]]) -> PageView:
    buckets = [
        BucketView(
            start_time=t_us // 1_000_000,
            end_time=(t_us + page.width_us) // 1_000_000,
            results=results.get(t_us, []),
        )
        for t_us in page.starts_us
    ]
    return PageView(data=buckets, has_more=page.next_page is not None, next_page=page.next_page)


def _answered(ask: Callable[[], Any]) -> Any:
    try:
        return ask()
    except CannotAnswer as error:
        raise BadRequest(str(error)) from error
    except StoreError as error:
        raise StoreUnavailable(str(error)) from error
    except TariffError as error:
        raise BadRequest(str(error), code="tariff_unusable") from error
