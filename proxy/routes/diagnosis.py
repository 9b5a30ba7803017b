"""Where the joules go, what would change it, and how much fits.

    GET /v1/energy/diagnosis   joules by what they went into, and causes with evidence and expected saving
    GET /v1/energy/capacity    requests that fit a power budget and limits on latency

Both look through a time; without one, the last hour. What is answered is in `proxy/diagnosis_views.py`.
"""

from __future__ import annotations

import time
from typing import Annotated, cast

from fastapi import APIRouter, Depends, Query, Request

from accounting.diagnosis.asking import Asking
from accounting.diagnosis.capacity import Question
from accounting.store.engine import CannotAnswer, StoreError
from proxy.diagnosis_views import CapacityView, DiagnosisView, capacity_view, diagnosis_view
from proxy.errors import BadRequest
from proxy.known_parameters import only_known
from proxy.routes.energy import StoreUnavailable, UnixTime, window

DEFAULT_S = 3600.0

router = APIRouter(prefix="/v1/energy", tags=["energy"], dependencies=[Depends(only_known)])

Limit = Annotated[float | None, Query(gt=0, le=1e9, allow_inf_nan=False)]
Factor = Annotated[float, Query(gt=0, le=1000, allow_inf_nan=False)]


def _asking(request: Request) -> Asking:
    return cast(Asking, request.app.state.diagnosis)


def _times(start_time: float | None, end_time: float | None) -> tuple[int, int]:
    """[start, end) in microseconds; without a start the last hour before the end."""
    until = time.time() if end_time is None else end_time
    t0_us, t1_us = window(max(until - DEFAULT_S, 0.0) if start_time is None else start_time, until)
    return t0_us or 0, t1_us or 0


@router.get("/diagnosis", response_model=DiagnosisView)
def read_diagnosis(
    request: Request,
    start_time: UnixTime = None,
    end_time: UnixTime = None,
    backend: str | None = None,
    model: str | None = None,
    tenant: str | None = None,
) -> dict[str, object]:
    """Where the joules of [start_time, end_time) (unix seconds) went, and what would change it."""
    t0_us, t1_us = _times(start_time, end_time)
    try:
        found = _asking(request).diagnosis(t0_us, t1_us, backend=backend, model=model, tenant=tenant)
    except CannotAnswer as error:
        raise BadRequest(str(error)) from error
    except StoreError as error:
        raise StoreUnavailable(str(error)) from error
    return diagnosis_view(found)


@router.get("/capacity", response_model=CapacityView)
def read_capacity(
    request: Request,
    start_time: UnixTime = None,
    end_time: UnixTime = None,
    backend: str | None = None,
    model: str | None = None,
    power_w: Limit = None,
    ttft_ms: Limit = None,
    itl_ms: Limit = None,
    percent: Annotated[float, Query(ge=50, lt=100)] = 95.0,
    requests_per_s: Limit = None,
    growth_per_month: Annotated[float | None, Query(ge=1e-6, le=10)] = None,
    replicas: Annotated[int | None, Query(ge=1, le=64)] = None,
    prompt_factor: Factor = 1.0,
    answer_factor: Factor = 1.0,
) -> dict[str, object]:
    """How many requests of the mix seen in [start_time, end_time) fit, and on how many replicas."""
    t0_us, t1_us = _times(start_time, end_time)
    question = Question(
        power_w=power_w,
        ttft_ms=ttft_ms,
        itl_ms=itl_ms,
        percent=percent,
        per_s=requests_per_s,
        growth=growth_per_month,
        most_replicas=replicas,
        prompt_factor=prompt_factor,
        answer_factor=answer_factor,
    )
    try:
        found = _asking(request).capacity(t0_us, t1_us, question, backend=backend, model=model)
    except CannotAnswer as error:
        raise BadRequest(str(error)) from error
    except StoreError as error:
        raise StoreUnavailable(str(error)) from error
    return capacity_view(found)
