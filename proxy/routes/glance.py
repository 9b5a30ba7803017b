"""What the live page draws, also for other pictures: devices now, many requests at a glance, flows of joules.

GET /v1/energy/devices               every GPU and host: power now, its limit, how it is measured
GET /v1/energy/points                a few figures of up to 100,000 requests, column by column
GET /v1/energy/points/{id}           a request and those that were in flight beside it
GET /v1/energy/flows                 joules from GPU to model to tenant
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Annotated, Any, cast

import msgspec
from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel, Field

from accounting.events import MeterMethod
from accounting.records import Boundary
from accounting.store.engine import StoreError
from accounting.store.glance import POINT_FIELDS, GlanceReader
from proxy.access.surface import project_of
from proxy.errors import NotFound
from proxy.known_parameters import only_known
from proxy.openapi import errors_of
from proxy.routes.energy import StoreUnavailable, UnixTime, window
from proxy.state import State

DEFAULT_WINDOW_S = 900.0
MOST_POINTS = 100_000
MOST_BESIDE = 1_000

router = APIRouter(prefix="/v1/energy", tags=["energy"], dependencies=[Depends(only_known)])


class DeviceView(BaseModel):
    gpu: str = Field(description="UUID of the GPU, or host:NAME")
    boundary: Boundary = Field(description="what it is the energy of: gpu or host")
    index: int | None = Field(description="its place in the machine's own order")
    node: str = Field(description="the machine it is in")
    device: str | None = Field(description="its name, such as NVIDIA H100")
    method: MeterMethod = Field(description="how its energy is read")
    simulated: bool = Field(description="true where it is simulated")
    power_watts: float | None = Field(description="mean power over the last second; null: not known")
    power_limit_watts: float | None = Field(description="the limit in force; null: not known")
    temperature_celsius: int | None = Field(description="its temperature; null: not known")
    utilization_ratio: float | None = Field(description="part of the time in which a kernel ran")
    clock_reasons: list[str] | None = Field(description="what holds its clocks down; null: not known")
    energy_joules: float | None = Field(description="read since joulegate started; null: nothing yet")
    energy_at: float | None = Field(
        description="when that was so: its counter's last change; null: not known"
    )
    fault: str | None = Field(description="why it cannot be read now; null: it can")


class DeviceList(BaseModel):
    object: str = Field(description="list")
    data: list[DeviceView] = Field(description="devices in the order in which their meters told of them")


class Points(BaseModel):
    """Requests column by column: the n-th entry of each column belongs to the n-th request, newest first."""

    object: str = Field(description="energy.points")
    names: list[str | None] = Field(description="what models, tenants, backends and statuses point to")
    id: list[str] = Field(description="joulegate's id")
    started_at: list[float] = Field(description="dispatched to the backend, unix seconds")
    scheduled_at: list[float | None] = Field(description="the engine began with it; null: not known")
    first_token_at: list[float | None] = Field(description="first token, unix seconds; null: not seen")
    finished_at: list[float] = Field(description="ended, unix seconds")
    energy_uj: list[int | None] = Field(description="GPU energy, microjoules; null: not measured")
    prompt_tokens: list[int | None] = Field(description="tokens of the prompt")
    completion_tokens: list[int | None] = Field(description="tokens generated")
    models: list[int] = Field(description="place of the model in `names`")
    tenants: list[int] = Field(description="place of the tenant in `names`")
    backends: list[int] = Field(description="place of the backend in `names`")
    statuses: list[int] = Field(description="place of the status in `names`")
    more: bool = Field(description="whether there are more than the limit; these are the newest")


class FlowView(BaseModel):
    gpu: str = Field(description="UUID of the GPU")
    backend: str | None = Field(description="name of the backend")
    model: str | None = Field(description="model as asked for")
    tenant: str | None = Field(description="who is charged")
    requests: int = Field(description="requests that took it")
    energy_uj: int = Field(description="energy of these requests on this GPU, microjoules")
    energy_joules: float = Field(description="the same in joules")


class FlowList(BaseModel):
    object: str = Field(description="list")
    data: list[FlowView] = Field(description="the largest first")


def _reader(request: Request) -> GlanceReader:
    return cast(GlanceReader, request.app.state.glance)


def _times(start_time: float | None, end_time: float | None) -> tuple[int, int]:
    """[start, end) in microseconds; without a start the last quarter of an hour before the end."""
    until = time.time() + 1 if end_time is None else end_time
    t0_us, t1_us = window(max(until - DEFAULT_WINDOW_S, 0.0) if start_time is None else start_time, until)
    return t0_us or 0, t1_us or 0


@router.get("/devices", response_model=DeviceList)
async def read_devices(request: Request) -> dict[str, object]:
    """Every GPU and host as it is now. Power is null where it is not known."""
    state: State = request.app.state.joulegate
    return {"object": "list", "data": state.metrics.devices()}


@router.get("/points", response_class=Response, responses={200: {"model": Points}})
def read_points(
    request: Request,
    start_time: UnixTime = None,
    end_time: UnixTime = None,
    tenant: str | None = None,
    project: str | None = None,
    limit: Annotated[int, Query(ge=1, le=MOST_POINTS)] = 10_000,
) -> Response:
    """A few figures of the newest requests that finished in [start_time, end_time), for drawing them."""
    t0_us, t1_us = _times(start_time, end_time)
    try:
        rows = _reader(request).points(t0_us, t1_us, limit + 1, tenant, project)
    except StoreError as error:
        raise StoreUnavailable(str(error)) from error
    return _columns(rows[:limit], more=len(rows) > limit)


@router.get(
    "/points/{id}", response_class=Response, responses={200: {"model": Points}, **errors_of(NotFound)}
)
def read_beside(
    request: Request, id: str, limit: Annotated[int, Query(ge=1, le=MOST_BESIDE)] = 100
) -> Response:
    """The request with this id of joulegate's, and those in flight on its backend meanwhile, the longest
    company first. With a key: of its project."""
    try:
        rows = _reader(request).beside(id, limit + 1, project_of(request.scope.get("state", {})))
    except StoreError as error:
        raise StoreUnavailable(str(error)) from error
    if not rows:
        raise NotFound(f"no request has the id {id!r}", param="id")
    return _columns(rows[: limit + 1], more=len(rows) > limit + 1)


@router.get("/flows", response_model=FlowList)
def read_flows(
    request: Request,
    start_time: UnixTime = None,
    end_time: UnixTime = None,
    tenant: str | None = None,
    project: str | None = None,
) -> dict[str, object]:
    """Joules of the requests that finished in [start_time, end_time): from GPU through model to tenant."""
    try:
        flows = _reader(request).flows(*_times(start_time, end_time), tenant, project)
    except StoreError as error:
        raise StoreUnavailable(str(error)) from error
    data = [
        {
            "gpu": flow.gpu,
            "backend": flow.backend,
            "model": flow.model,
            "tenant": flow.tenant,
            "requests": flow.requests,
            "energy_uj": flow.energy_uj,
            "energy_joules": flow.energy_uj / 1e6,
        }
        for flow in flows
    ]
    return {"object": "list", "data": data}


def _columns(rows: Sequence[Sequence[Any]], *, more: bool) -> Response:
    """`Points`, past pydantic: of a hundred thousand requests it would check every number."""
    columns = dict(zip(POINT_FIELDS, zip(*rows, strict=True), strict=True)) if rows else {}
    places: dict[str | None, int] = {}

    def named(name: str) -> list[int]:
        return [places.setdefault(text, len(places)) for text in columns.get(name, ())]

    def times(name: str) -> list[float | None]:
        return [None if t_us is None else t_us / 1e6 for t_us in columns.get(name, ())]

    body = {
        "object": "energy.points",
        "id": columns.get("uid", ()),
        "started_at": times("started_us"),
        "scheduled_at": times("scheduled_us"),
        "first_token_at": times("first_token_us"),
        "finished_at": times("finished_us"),
        "energy_uj": columns.get("energy_uj", ()),
        "prompt_tokens": columns.get("prompt_tokens", ()),
        "completion_tokens": columns.get("completion_tokens", ()),
        "models": named("model"),
        "tenants": named("tenant"),
        "backends": named("backend"),
        "statuses": named("status"),
        "names": list(places),
        "more": more,
    }
    return Response(msgspec.json.encode(body), media_type="application/json")
