"""For operators: is it alive, is it ready, what does it count."""

from __future__ import annotations

import time
from typing import Literal

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel, Field

from proxy.state import State

router = APIRouter(tags=["operations"])


@router.get("/health")
def health() -> dict[str, str]:
    """Alive: the process answers."""
    return {"status": "ok"}


class Readiness(BaseModel):
    status: Literal["ready", "not ready"]
    reasons: list[str] = Field(description="why it is not ready")
    warnings: list[str] = Field(description="what is wrong although requests are served")


NOT_READY = {503: {"model": Readiness, "description": "Not ready"}}


@router.get("/ready", response_model=Readiness, responses=NOT_READY)  # type: ignore[arg-type]
def ready(request: Request) -> JSONResponse:
    """Ready: an engine answers and the journal can be written. 503 with the reasons where not.

    A meter or a database that is away is told under `warnings`: requests are served all the same, and
    accounted for as far as possible.
    """
    state: State = request.app.state.joulegate
    reasons = [f"backend {b.id} does not answer" for b in state.backends.all if not b.up]
    blocking = list(reasons) if len(reasons) == len(state.backends.all) else []
    warnings = [] if blocking else reasons
    now_s = time.monotonic()
    if len(state.backends.all) > 1:  # a lone one is never left out
        ejected = [b.id for b in state.backends.all if b.up and b.passive.circuit(now_s) != "closed"]
        warnings += [f"backend {name} fails requests and is left out" for name in ejected]
    if state.accountant.journal.failure is not None:
        blocking.append(f"the journal cannot be written: {state.accountant.journal.failure}")
    if state.writer.last_error is not None:
        warnings.append(f"the store cannot be written: {state.writer.last_error}")
    warnings += [f"GPU {gpu} is not measured: {why}" for gpu, why in state.meter_faults().items()]
    body = {"status": "not ready" if blocking else "ready", "reasons": blocking, "warnings": warnings}
    return JSONResponse(body, status_code=503 if blocking else 200)


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def metrics(request: Request) -> Response:
    """Prometheus text."""
    state: State = request.app.state.joulegate
    return Response(await state.metrics.text(), media_type=CONTENT_TYPE_LATEST)
