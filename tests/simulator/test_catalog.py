"""Models by name and by card."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest

from simulator import catalog
from simulator.card_file import CardError, read_card
from simulator.cards import LLAMA_8B, QWEN_30B_A3B
from simulator.cards_measured import MEASURED
from simulator.physics import CardPhysics
from simulator.physics_fitted import FittedPhysics
from simulator.process import SimulatedEngine

LLAMA_8B_CONFIG = {
    "num_hidden_layers": 32,
    "hidden_size": 4096,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14_336,
    "vocab_size": 128_256,
    "max_position_embeddings": 131_072,
}
QWEN_30B_CONFIG = {
    "num_hidden_layers": 48,
    "hidden_size": 2048,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "intermediate_size": 6144,
    "moe_intermediate_size": 768,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "vocab_size": 151_936,
    "quantization_config": {"quant_method": "fp8"},
}


def written(directory: Path, value: object) -> Path:
    path = directory / "model.json"
    path.write_text(json.dumps(value))
    return path


@pytest.mark.parametrize(
    ("config", "known"), [(LLAMA_8B_CONFIG, LLAMA_8B), (QWEN_30B_CONFIG, QWEN_30B_A3B)], ids=["dense", "moe"]
)
def test_a_configuration_counts_to_the_published_parameters(
    tmp_path: Path, config: dict[str, object], known: object
) -> None:
    card = read_card(written(tmp_path, config))
    for field in ("total_params", "active_params", "expert_params"):
        assert getattr(card, field) == pytest.approx(getattr(known, field), rel=0.02)
    for field in ("layers", "attention_width", "kv_bytes_per_token", "experts", "experts_per_token"):
        assert getattr(card, field) == getattr(known, field)


def test_precision_and_own_fields_are_read(tmp_path: Path) -> None:
    assert read_card(written(tmp_path, QWEN_30B_CONFIG)).precision == "fp8"
    both = {**LLAMA_8B_CONFIG, "name": "mine", "state_bytes": 1e6}
    card = read_card(written(tmp_path, {"text_config": LLAMA_8B_CONFIG, **{k: both[k] for k in ("name",)}}))
    assert card.name == "mine"
    assert read_card(written(tmp_path, both)).state_bytes == 1e6


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ([1], "not a JSON object"),
        ({"layers": 3}, "does not say"),
        ({"num_hidden_layers": 3}, "does not say 'hidden_size'"),
        ({**LLAMA_8B_CONFIG, "active_params": 1e15}, "do not add up"),
        ({**LLAMA_8B_CONFIG, "precision": "int3"}, "is none of"),
    ],
)
def test_a_bad_card_is_refused_with_what_is_wrong(tmp_path: Path, value: object, complaint: str) -> None:
    with pytest.raises(CardError, match=complaint):
        read_card(written(tmp_path, value))


def test_a_measured_model_is_served_by_its_profile_where_there_is_one() -> None:
    assert isinstance(catalog.offer("Qwen/Qwen3-14B", "b200", 1, "reasoning").physics, FittedPhysics)
    assert isinstance(catalog.offer("Qwen/Qwen3-14B", "b200", 4).physics, CardPhysics)
    with pytest.raises(KeyError, match="not measured at code"):
        catalog.offer("Qwen/Qwen3-14B", "b200", 1, "code")


def test_every_model_has_one_name() -> None:
    names = catalog.names()
    assert len(names) == len(set(names))
    assert set(MEASURED) < set(names)


@pytest.mark.parametrize("by", ["profile", "card"])
def test_the_server_takes_it(tmp_path: Path, by: str) -> None:
    if by == "profile":
        options, name = ["--task", "reasoning"], "openai/gpt-oss-120b"
    else:
        options, name = ["--model-card", str(written(tmp_path, LLAMA_8B_CONFIG))], "model"
    model = name if by == "profile" else "tiny"
    with SimulatedEngine(tmp_path, model=model, gpu="b200", options=options, library=False) as engine:
        body = {"model": name, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}
        answer = httpx.post(f"{engine.url}/v1/chat/completions", json=body, timeout=30)
        assert answer.status_code == 200
        assert answer.json()["usage"]["completion_tokens"] == 5
        truth = httpx.get(f"{engine.url}/simulator/truth").json()
    assert truth["data"][0]["energy_uj"] > 0
