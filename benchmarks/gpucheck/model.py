"""A Llama with random weights, made where it is needed: nothing is downloaded, nothing read from disk.

What a forward pass costs does not depend on what the weights say. "8b" has the shape of Llama 3.1 8B
(hidden 4096, 32 layers, 32 heads with 8 for keys and values, feed-forward 14336, vocabulary 128256).
"""

from __future__ import annotations

from typing import Any, Literal

Size = Literal["8b", "tiny"]

SHAPES: dict[Size, dict[str, int]] = {
    "8b": {
        "hidden_size": 4096,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "intermediate_size": 14_336,
        "vocab_size": 128_256,
        "max_position_embeddings": 16_384,
    },
    "tiny": {
        "hidden_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 256,
        "vocab_size": 512,
        "max_position_embeddings": 16_384,
    },
}


def build(size: Size, device: str) -> Any:
    """The model, in bf16 on CUDA and float32 elsewhere, in eval mode."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    if device == "cpu":
        torch.set_num_threads(1)  # a rehearsal shares its few cores with the proxy and the sampler
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = LlamaForCausalLM(LlamaConfig(**SHAPES[size], attn_implementation="sdpa"))
    finally:
        torch.set_default_dtype(before)
    return model.eval()
