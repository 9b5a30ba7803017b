"""A model card from a file: the `config.json` of a checkpoint on Hugging Face, or the card's own fields.

From a configuration the parameters are counted as for decoders of the Llama, Qwen and Mixtral kind:
attention, gated feed-forward layers or experts, embeddings. Other kinds (latent attention, Mamba, sliding
windows) need the card's own fields, which win over what is counted; they are those of
`simulator.cards.ModelCard`, such as {"total_params": 8.9e9, "layers": 56, "state_bytes": 1.4e8, ...}.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from simulator.cards import ModelCard

FIELDS = {field.name for field in dataclasses.fields(ModelCard)}
KV_BYTES = 2
"""Per value in the KV cache: bf16."""


class CardError(ValueError):
    """The file tells too little, or nonsense. The message says what is missing."""


def read_card(path: Path) -> ModelCard:
    """Raises CardError; OSError if it cannot be read."""
    try:
        loaded = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise CardError(f"{path} is not JSON: {error}") from error
    if not isinstance(loaded, dict):
        raise CardError(f"{path} is not a JSON object")
    given = {name: value for name, value in loaded.items() if name in FIELDS}
    name = path.stem if path.stem not in ("config", "card") else path.resolve().parent.name
    counted = _count(loaded) if "num_hidden_layers" in loaded.get("text_config", loaded) else {}
    values: dict[str, Any] = {"name": name, "hf_id": name, **counted, **given}
    needed = {f.name for f in dataclasses.fields(ModelCard) if f.default is dataclasses.MISSING}
    if missing := sorted(needed - values.keys()):
        raise CardError(f"{path} does not say {', '.join(missing)}")
    card = ModelCard(**values)
    if not 0 < card.active_params <= card.total_params or card.expert_params > card.total_params:
        raise CardError(f"{path}: the parameters do not add up")
    if card.precision not in ("bf16", "fp8", "mxfp4"):
        raise CardError(f"{path}: precision {card.precision!r} is none of bf16, fp8, mxfp4")
    return card


def _count(loaded: dict[str, Any]) -> dict[str, Any]:
    """What a configuration says. The language model's part of one that sees images, too."""
    config = loaded.get("text_config", loaded)
    try:
        layers, hidden = config["num_hidden_layers"], config["hidden_size"]
        heads, vocabulary = config["num_attention_heads"], config["vocab_size"]
        kv_heads = config.get("num_key_value_heads") or heads
        size = config.get("head_dim") or hidden // heads
        experts = next((config[key] for key in _EXPERTS if config.get(key)), 1)
        chosen = config.get("num_experts_per_tok", 1) if experts > 1 else 1
        width = config.get("moe_intermediate_size") or config["intermediate_size"]
        per_expert = 3 * hidden * width
    except KeyError as missing:
        raise CardError(f"the configuration does not say {missing}") from missing
    attention = layers * hidden * size * (2 * heads + 2 * kv_heads)
    tables = vocabulary * hidden * (1 if config.get("tie_word_embeddings") else 2)
    in_experts = layers * experts * per_expert if experts > 1 else 0
    common = attention + tables + (0 if experts > 1 else layers * per_expert)
    common += layers * 3 * hidden * config.get("shared_expert_intermediate_size", 0)
    total = common + in_experts
    return {
        "total_params": float(total),
        "active_params": float(common + (in_experts * chosen / experts if experts > 1 else 0)),
        "layers": layers,
        "hidden": hidden,
        "attention_width": heads * size,
        "kv_bytes_per_token": 2 * layers * kv_heads * size * KV_BYTES,
        "max_model_len": config.get("max_position_embeddings", 32_768),
        "expert_params": float(in_experts),
        "experts": experts,
        "experts_per_token": chosen,
        "precision": _precision(loaded),
    }


_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")


def _precision(loaded: dict[str, Any]) -> str:
    method = (loaded.get("quantization_config") or {}).get("quant_method", "bf16")
    return {"fp8": "fp8", "fbgemm_fp8": "fp8", "mxfp4": "mxfp4"}.get(method, "bf16")
