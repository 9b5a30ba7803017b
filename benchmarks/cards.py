"""A model of the simulator, as a backend declares it."""

from __future__ import annotations

from accounting.events import ModelCard
from simulator import cards


def declared(model: cards.ModelCard) -> ModelCard:
    return ModelCard(
        name=model.name,
        total_params=model.total_params,
        active_params=model.active_params,
        layers=model.layers,
        hidden=model.hidden,
        kv_bytes_per_token=model.kv_bytes_per_token,
        weight_bytes=model.weight_bytes,
        experts=model.experts if model.is_moe else None,
        experts_per_token=model.experts_per_token if model.is_moe else None,
    )
