"""Cards of the models that the profiles were fitted to (simulator/profiles), by their name on Hugging Face.

Architecture figures are those of the published configuration files; expert parameters are layers with experts
x experts x 3 matrices x hidden size x expert width. Models of one architecture share a card.
"""

from __future__ import annotations

from dataclasses import replace

from simulator.cards import LLAMA_8B, LLAMA_70B, QWEN_30B_A3B, ModelCard, Precision

QWEN_14B = ModelCard(
    name="qwen3-14b",
    hf_id="Qwen/Qwen3-14B",
    total_params=14.8e9,
    active_params=14.8e9,
    layers=40,
    hidden=5120,
    attention_width=40 * 128,
    kv_bytes_per_token=2 * 40 * 8 * 128 * 2,
    max_model_len=40_960,
)
QWEN_VL_32B = ModelCard(
    name="qwen3-vl-32b",
    hf_id="Qwen/Qwen3-VL-32B-Instruct",
    total_params=33.4e9,
    active_params=32.8e9,
    layers=64,
    hidden=5120,
    attention_width=64 * 128,
    kv_bytes_per_token=2 * 64 * 8 * 128 * 2,
    max_model_len=262_144,
)
QWEN_235B_A22B = ModelCard(
    name="qwen3-235b-a22b",
    hf_id="Qwen/Qwen3-235B-A22B-Instruct-2507",
    total_params=235.1e9,
    active_params=22.2e9,
    layers=94,
    hidden=4096,
    attention_width=64 * 128,
    kv_bytes_per_token=2 * 94 * 4 * 128 * 2,
    max_model_len=262_144,
    expert_params=94 * 128 * 3 * 4096 * 1536,
    experts=128,
    experts_per_token=8,
)
QWEN_CODER_480B_A35B = ModelCard(
    name="qwen3-coder-480b-a35b",
    hf_id="Qwen/Qwen3-Coder-480B-A35B-Instruct",
    total_params=480.2e9,
    active_params=35.5e9,
    layers=62,
    hidden=6144,
    attention_width=96 * 128,
    kv_bytes_per_token=2 * 62 * 8 * 128 * 2,
    max_model_len=262_144,
    expert_params=62 * 160 * 3 * 6144 * 2560,
    experts=160,
    experts_per_token=8,
)
DEEPSEEK_V3 = ModelCard(
    name="deepseek-v3.1",
    hf_id="deepseek-ai/DeepSeek-V3.1",
    total_params=671e9,
    active_params=37.6e9,
    layers=61,
    hidden=7168,
    attention_width=128 * 128,
    kv_bytes_per_token=61 * (512 + 64) * 2,  # latent attention keeps one compressed vector and a rotary part
    max_model_len=163_840,
    expert_params=58 * 256 * 3 * 7168 * 2048,
    experts=256,
    experts_per_token=8,
    precision="fp8",
)
GEMMA_27B = ModelCard(
    name="gemma-3-27b",
    hf_id="google/gemma-3-27b-it",
    total_params=27.4e9,
    active_params=27.0e9,
    layers=62,
    hidden=5376,
    attention_width=32 * 128,
    kv_bytes_per_token=2 * 62 * 16 * 128 * 2,
    max_model_len=131_072,
)
LLAMA_405B = ModelCard(
    name="llama-3.1-405b",
    hf_id="meta-llama/Llama-3.1-405B-Instruct",
    total_params=405.9e9,
    active_params=405.9e9,
    layers=126,
    hidden=16_384,
    attention_width=128 * 128,
    kv_bytes_per_token=2 * 126 * 8 * 128 * 2,
    max_model_len=131_072,
)
LLAMA_SCOUT = ModelCard(
    name="llama-4-scout",
    hf_id="meta-llama/Llama-4-Scout-17B-16E-Instruct",
    total_params=107.8e9,
    active_params=17.2e9,
    layers=48,
    hidden=5120,
    attention_width=40 * 128,
    kv_bytes_per_token=2 * 48 * 8 * 128 * 2,
    max_model_len=1_048_576,
    expert_params=48 * 16 * 3 * 5120 * 8192,
    experts=16,
    experts_per_token=1,
)
LLAMA_MAVERICK = ModelCard(
    name="llama-4-maverick",
    hf_id="meta-llama/Llama-4-Maverick-17B-128E-Instruct-FP8",
    total_params=400.7e9,
    active_params=17.2e9,
    layers=48,
    hidden=5120,
    attention_width=40 * 128,
    kv_bytes_per_token=2 * 48 * 8 * 128 * 2,
    max_model_len=1_048_576,
    expert_params=24 * 128 * 3 * 5120 * 8192,
    experts=128,
    experts_per_token=1,
    precision="fp8",
)
GPT_OSS_120B = ModelCard(
    name="gpt-oss-120b",
    hf_id="openai/gpt-oss-120b",
    total_params=116.8e9,
    active_params=5.1e9,
    layers=36,
    hidden=2880,
    attention_width=64 * 64,
    kv_bytes_per_token=2 * 18 * 8 * 64 * 2,  # every second layer looks back 128 tokens only
    max_model_len=131_072,
    expert_params=36 * 128 * 3 * 2880 * 2880,
    experts=128,
    experts_per_token=4,
    precision="mxfp4",
)
# Mamba state: layers x heads x head size x state size, 4 bytes.
NEMOTRON_9B = ModelCard(
    name="nemotron-nano-9b-v2",
    hf_id="nvidia/NVIDIA-Nemotron-Nano-9B-v2",
    total_params=8.9e9,
    active_params=8.9e9,
    layers=56,
    hidden=4480,
    attention_width=40 * 128,
    kv_bytes_per_token=2 * 4 * 8 * 128 * 2,
    max_model_len=131_072,
    state_bytes=27 * 128 * 80 * 128 * 4,
)
NEMOTRON_12B = ModelCard(
    name="nemotron-nano-12b-v2",
    hf_id="nvidia/NVIDIA-Nemotron-Nano-12B-v2",
    total_params=12.3e9,
    active_params=12.3e9,
    layers=62,
    hidden=5120,
    attention_width=40 * 128,
    kv_bytes_per_token=2 * 6 * 8 * 128 * 2,
    max_model_len=131_072,
    state_bytes=28 * 128 * 80 * 128 * 4,
)


def _as(card: ModelCard, hf_id: str, precision: Precision | None = None) -> ModelCard:
    name = hf_id.split("/")[1].lower()
    return replace(card, name=name, hf_id=hf_id, precision=precision or card.precision)


MEASURED = {
    card.hf_id: card
    for card in (
        LLAMA_8B,
        LLAMA_70B,
        LLAMA_405B,
        _as(LLAMA_405B, "meta-llama/Llama-3.1-405B-Instruct-FP8", "fp8"),
        LLAMA_SCOUT,
        LLAMA_MAVERICK,
        QWEN_14B,
        QWEN_30B_A3B,
        _as(QWEN_30B_A3B, "Qwen/Qwen3-30B-A3B-Thinking-2507"),
        _as(QWEN_30B_A3B, "Qwen/Qwen3-Coder-30B-A3B-Instruct"),
        _as(QWEN_30B_A3B, "Qwen/Qwen3-Omni-30B-A3B-Instruct"),
        _as(QWEN_30B_A3B, "Qwen/Qwen3-VL-30B-A3B-Instruct"),
        QWEN_VL_32B,
        QWEN_235B_A22B,
        _as(QWEN_235B_A22B, "Qwen/Qwen3-235B-A22B-Instruct-2507-FP8", "fp8"),
        _as(QWEN_235B_A22B, "Qwen/Qwen3-235B-A22B-Thinking-2507"),
        _as(QWEN_235B_A22B, "Qwen/Qwen3-235B-A22B-Thinking-2507-FP8", "fp8"),
        _as(QWEN_235B_A22B, "Qwen/Qwen3-VL-235B-A22B-Instruct"),
        _as(QWEN_235B_A22B, "Qwen/Qwen3-VL-235B-A22B-Instruct-FP8", "fp8"),
        QWEN_CODER_480B_A35B,
        _as(QWEN_CODER_480B_A35B, "Qwen/Qwen3-Coder-480B-A35B-Instruct-FP8", "fp8"),
        DEEPSEEK_V3,
        _as(DEEPSEEK_V3, "deepseek-ai/DeepSeek-R1-0528"),
        GEMMA_27B,
        GPT_OSS_120B,
        NEMOTRON_9B,
        NEMOTRON_12B,
        _as(NEMOTRON_12B, "nvidia/NVIDIA-Nemotron-Nano-12B-v2-VL-BF16"),
    )
}
"""By Hugging Face name."""
