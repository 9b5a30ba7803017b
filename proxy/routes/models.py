"""/v1/models where there are several engines: one list of all their models. A lone engine answers itself."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from proxy.errors import NotFound
from proxy.openapi import errors_of
from proxy.state import State

router = APIRouter(prefix="/v1/models", tags=["openai"])


def _models(request: Request) -> dict[str, dict[str, Any]]:
    state: State = request.app.state.joulegate
    return {model: card for backend in state.backends.all for model, card in backend.models.items()}


@router.get("")
async def list_models(request: Request) -> dict[str, Any]:
    """The models that can be asked for, each as its engine describes it."""
    return {"object": "list", "data": list(_models(request).values())}


@router.get("/{model:path}", responses=errors_of(NotFound))
async def retrieve_model(request: Request, model: str) -> dict[str, Any]:
    """One model."""
    card = _models(request).get(model)
    if card is None:
        raise NotFound(f"The model `{model}` does not exist.", param="model", code="model_not_found")
    return card
