"""What the usage and costs routes answer: OpenAI's fields, and beside them energy, cost and carbon.

null means "not known", or "not grouped by this".
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from accounting.billing.carbon import sci_g
from accounting.billing.day import plus
from accounting.billing.terms import Terms
from accounting.billing.units import grams, money
from accounting.billing.usage import Sums


class Amount(BaseModel):
    value: float = Field(description="in the currency")
    currency: str = Field(description="ISO 4217 code in lower case, such as eur")


class Result(BaseModel):
    """What all usage results have."""

    num_model_requests: int = Field(description="requests that reached an engine, failed ones with them")
    project_id: str | None = Field(description="project; without keys the tenant")
    user_id: str | None = Field(description="user")
    api_key_id: str | None = Field(description="id of the key")
    model: str | None = Field(description="model as asked for")
    energy_joules: float | None = Field(description="GPU energy of the requests, joules; null: none known")
    energy_uj: int | None = Field(description="the same, exact, microjoules")
    prefill_uj: int | None = Field(description="of it for prefill, microjoules")
    decode_uj: int | None = Field(description="of it for decode, microjoules")
    host_uj: int | None = Field(description="energy of the hosts beside the GPUs', microjoules")
    num_requests_without_energy: int = Field(description="requests of which no energy is known")
    unmeasured_seconds: float = Field(
        description="time in flight not measured, seconds; above 0 makes the energy a lower bound"
    )
    cost: Amount | None = Field(
        description="of what the requests drew, without shares of idle energy and the like; null: not priced"
    )
    carbon_grams_location: float | None = Field(
        description="GPU and host energy, times pue where set, by the location-based factor; gCO2e"
    )
    carbon_grams_market: float | None = Field(description="the same by the market-based factor; gCO2e")
    sci_grams_per_request: float | None = Field(
        description="Software Carbon Intensity, ((E x I) + M) / R with R = requests; gCO2e"
    )
    sci_grams_per_1k_tokens: float | None = Field(
        description="the same with R = 1,000 tokens, in and out; gCO2e"
    )


class CompletionsResult(Result):
    object: Literal["organization.usage.completions.result"]
    input_tokens: int = Field(description="tokens of prompts, cached ones with them, as far as known")
    output_tokens: int = Field(description="tokens generated, as far as known")
    input_cached_tokens: int | None = Field(description="input tokens found in the prefix cache")
    num_requests_without_usage: int = Field(description="requests of which the engine told no tokens")
    batch: bool | None = Field(description="always false where grouped by it")
    service_tier: str | None = Field(description="always default where grouped by it")
    api_source: str | None = Field(description="always unlabeled where grouped by it")


class EmbeddingsResult(Result):
    object: Literal["organization.usage.embeddings.result"]
    input_tokens: int = Field(description="tokens of inputs, as far as known")
    num_requests_without_usage: int = Field(description="requests of which the engine told no tokens")


class ImagesResult(Result):
    object: Literal["organization.usage.images.result"]
    images: int = Field(description="images made")
    size: str | None = Field(description="size of the images, such as 1024x1024")
    source: str | None = Field(description="image.generation, image.edit or image.variation")


class VideosResult(Result):
    object: Literal["organization.usage.videos.result"]
    videos: int = Field(description="videos made")
    seconds: float = Field(description="their length together, seconds")
    size: str | None = Field(description="size of the videos")
    source: str | None = Field(description="always null")


class CostsResult(BaseModel):
    object: Literal["organization.costs.result"]
    amount: Amount | None = Field(description="what it costs; null where a part of it has no price")
    line_item: str | None = Field(description="what is charged for, such as llama, gpu_energy")
    project_id: str | None = Field(description="project; without keys the tenant")
    user_id: str | None = Field(description="user")
    api_key_id: str | None = Field(description="id of the key")
    api_source: str | None = Field(description="always unlabeled where grouped by it")
    quantity: float | None = Field(description="joules, where grouped by line_item")
    quantity_unit: str | None = Field(description="joules, where grouped by line_item")
    energy_uj: int = Field(description="energy that is charged for, exact, microjoules")
    carbon_grams_location: float | None = Field(description="its carbon by the location-based factor, gCO2e")
    carbon_grams_market: float | None = Field(description="its carbon by the market-based factor, gCO2e")


AnyResult = Annotated[
    CompletionsResult | EmbeddingsResult | ImagesResult | VideosResult | CostsResult,
    Field(discriminator="object"),
]


class BucketView(BaseModel):
    object: Literal["bucket"] = "bucket"
    start_time: int = Field(description="unix seconds")
    end_time: int = Field(description="unix seconds, exclusive")
    results: list[AnyResult] = Field(description="by group; empty where nothing was used")


class PageView(BaseModel):
    object: Literal["page"] = "page"
    data: list[BucketView] = Field(description="by time, without gaps")
    has_more: bool = Field(description="whether there is a page after this")
    next_page: str | None = Field(description="pass it as page")


def common(sums: Sums, told: dict[str, str | None], terms: Terms) -> dict[str, object]:
    """The fields of `Result`."""
    known = sums.with_energy > 0
    tokens = plus(sums.prompt_tokens, sums.completion_tokens or 0)
    location = sums.location if known else None
    per_token = sci_g(location, sums.embodied, tokens or 0)
    return {
        "num_model_requests": sums.requests,
        "project_id": told.get("project_id"),
        "user_id": told.get("user_id"),
        "api_key_id": told.get("api_key_id"),
        "model": told.get("model"),
        "energy_joules": None if sums.energy_uj is None else sums.energy_uj / 1e6,
        "energy_uj": sums.energy_uj,
        "prefill_uj": sums.prefill_uj,
        "decode_uj": sums.decode_uj,
        "host_uj": sums.host_uj,
        "num_requests_without_energy": sums.requests - sums.with_energy,
        "unmeasured_seconds": sums.unmeasured_us / 1e6,
        "cost": amount(sums.cost if known else None, terms),
        "carbon_grams_location": carbon(location),
        "carbon_grams_market": carbon(sums.market if known else None),
        "sci_grams_per_request": sci_g(location, sums.embodied, sums.requests),
        "sci_grams_per_1k_tokens": None if per_token is None else 1000 * per_token,
    }


def amount(cost: int | None, terms: Terms) -> Amount | None:
    if cost is None or terms.currency is None:
        return None
    return Amount(value=float(money(cost)), currency=terms.currency.lower())


def carbon(units: int | None) -> float | None:
    return None if units is None else float(grams(units))
