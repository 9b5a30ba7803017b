"""The tiny model is whole without any help from torch: what it claims is what its files hold."""

from __future__ import annotations

import json
from pathlib import Path

from tests.engines.tiny_llama import CHAT_TEMPLATE, SPECIAL, make_tiny_llama


def test_the_weights_fill_the_file_exactly_and_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    one, two = make_tiny_llama(tmp_path / "one"), make_tiny_llama(tmp_path / "two")
    raw = (one / "model.safetensors").read_bytes()
    assert raw == (two / "model.safetensors").read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    assert header.pop("__metadata__") == {"format": "pt"}
    ends = sorted(tuple(entry["data_offsets"]) for entry in header.values())
    assert [start for start, _ in ends] == [0, *(end for _, end in ends[:-1])]
    assert ends[-1][1] == len(raw) - 8 - length


def test_the_vocabulary_covers_every_byte_and_fits_the_embeddings(tmp_path: Path) -> None:
    model = make_tiny_llama(tmp_path / "m")
    bpe = json.loads((model / "tokenizer.json").read_text())["model"]
    vocabulary: dict[str, int] = bpe["vocab"]
    assert sorted(vocabulary.values()) == list(range(len(vocabulary)))
    assert len([token for token in vocabulary if len(token) == 1]) == 256
    assert all(left + right in vocabulary for left, right in bpe["merges"])
    assert json.loads((model / "config.json").read_text())["vocab_size"] == len(vocabulary)
    assert all(f"<|{role}|>" in SPECIAL for role in ("system", "user", "assistant", "tool"))
    assert "add_generation_prompt" in CHAT_TEMPLATE


def test_a_half_made_model_is_made_again(tmp_path: Path) -> None:
    draft = tmp_path / "m.draft"
    draft.mkdir()
    (draft / "config.json").write_text("{")
    model = make_tiny_llama(tmp_path / "m")
    assert json.loads((model / "config.json").read_text())["model_type"] == "llama"
    assert not draft.exists()
