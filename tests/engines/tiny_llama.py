"""Makes a tiny random Llama with its own tokenizer: all that a real vLLM needs, and nothing to download.

Everything is written by hand: tokenizer.json, the configuration, and model.safetensors (an 8-byte length, a
JSON header, raw float32). So the project's own environment makes the model; torch only reads it.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

MAX_LENGTH: Final = 16_384
HIDDEN: Final = 256
LAYERS: Final = 4
HEADS: Final = 4
KV_HEADS: Final = 2
FEED_FORWARD: Final = 512
HEAD_SIZE: Final = HIDDEN // HEADS

SPECIAL: Final = ("<|bos|>", "<|eos|>", "<|pad|>", "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>")
BOS, EOS, PAD = 0, 1, 2
WORDS: Final = """
    energy power joule watt request token batch model prompt answer time first last long short many few each
    every other same new old small large high low fast slow begin end read write count share split sum part
    whole right left where when what which there here then now always never often is are was has have can will
    and or not but for from with into over under between through of to in on at by as it that this
"""

# Each message as <|role|>content<|eos|>, then the assistant's turn.
CHAT_TEMPLATE: Final = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + (m['content'] or '') + '<|eos|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def make_tiny_llama(directory: Path, seed: int = 0) -> Path:
    """Write the model into `directory` unless it is there already; return the directory.

    It is built beside and renamed, so an interrupted run leaves no half model.
    """
    if directory.is_dir():
        return directory
    draft = directory.with_name(f"{directory.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    vocabulary, merges = _vocabulary()
    _write_json(draft / "tokenizer.json", _tokenizer(vocabulary, merges))
    _write_json(draft / "tokenizer_config.json", _tokenizer_config())
    _write_json(draft / "config.json", _config(len(vocabulary)))
    _write_json(
        draft / "generation_config.json", {"bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD}
    )
    _write_safetensors(draft / "model.safetensors", _weights(len(vocabulary), np.random.default_rng(seed)))
    draft.rename(directory)
    return directory


def _byte_symbols() -> list[str]:
    """The printable character that byte-level BPE uses for each byte: itself, or one above U+0100."""
    plain = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte) if byte in plain else chr(next(others)) for byte in range(256)]


def _vocabulary() -> tuple[dict[str, int], list[list[str]]]:
    """Special tokens, the 256 bytes, then every prefix of every word, each its predecessor plus a letter."""
    symbols = _byte_symbols()
    tokens = dict.fromkeys([*SPECIAL, *symbols])
    merges: list[list[str]] = []
    for word in WORDS.split():
        for spelled in (symbols[ord(" ")] + word, word):
            for end in range(2, len(spelled) + 1):
                if spelled[:end] not in tokens:
                    tokens[spelled[:end]] = None
                    merges.append([spelled[: end - 1], spelled[end - 1]])
    return {token: index for index, token in enumerate(tokens)}, merges


def _tokenizer(vocabulary: dict[str, int], merges: list[list[str]]) -> dict[str, object]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": index, "content": token, **flags, "special": True} for index, token in enumerate(SPECIAL)
        ],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": vocabulary,
            "merges": merges,
        },
    }


def _tokenizer_config() -> dict[str, object]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": SPECIAL[BOS],
        "eos_token": SPECIAL[EOS],
        "pad_token": SPECIAL[PAD],
        "model_max_length": MAX_LENGTH,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }


def _config(vocabulary_size: int) -> dict[str, object]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": vocabulary_size,
        "hidden_size": HIDDEN,
        "intermediate_size": FEED_FORWARD,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_SIZE,
        "hidden_act": "silu",
        "max_position_embeddings": MAX_LENGTH,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        "pad_token_id": PAD,
        "torch_dtype": "float32",
    }


def _weights(vocabulary_size: int, random: np.random.Generator) -> dict[str, NDArray[np.float32]]:
    """Random weights. The head is drawn wide, so that the best token leads clearly: were the logits close,
    the order of additions, which differs from batch to batch, would decide what temperature 0 gives."""

    def draw(rows: int, columns: int, scale: float) -> NDArray[np.float32]:
        return (random.standard_normal((rows, columns)) * scale).astype(np.float32)

    norm = np.ones(HIDDEN, dtype=np.float32)
    weights = {
        "model.embed_tokens.weight": draw(vocabulary_size, HIDDEN, 1.0),
        "model.norm.weight": norm,
        "lm_head.weight": draw(vocabulary_size, HIDDEN, 0.3),
    }
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}."
        for name, rows, columns in (
            ("self_attn.q_proj", HIDDEN, HIDDEN),
            ("self_attn.k_proj", KV_HEADS * HEAD_SIZE, HIDDEN),
            ("self_attn.v_proj", KV_HEADS * HEAD_SIZE, HIDDEN),
            ("self_attn.o_proj", HIDDEN, HIDDEN),
            ("mlp.gate_proj", FEED_FORWARD, HIDDEN),
            ("mlp.up_proj", FEED_FORWARD, HIDDEN),
            ("mlp.down_proj", HIDDEN, FEED_FORWARD),
        ):
            weights[f"{prefix}{name}.weight"] = draw(rows, columns, columns**-0.5)
        weights[f"{prefix}input_layernorm.weight"] = norm
        weights[f"{prefix}post_attention_layernorm.weight"] = norm
    return weights


def _write_safetensors(path: Path, tensors: dict[str, NDArray[np.float32]]) -> None:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, tensor in tensors.items():
        header[name] = {
            "dtype": "F32",
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + tensor.nbytes],
        }
        offset += tensor.nbytes
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)  # the data starts aligned
    with path.open("wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        for tensor in tensors.values():
            file.write(tensor.astype("<f4").tobytes())


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1), encoding="utf-8")
