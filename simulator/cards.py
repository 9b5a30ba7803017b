"""What the simulator knows of models and GPUs: numbers only, each with its source.

GPU sheet figures (bandwidth, FLOP/s, memory, TDP) are NVIDIA's data sheets for the SXM parts, dense bf16.
The fitted constants are one fit over the public measurements of arXiv 2601.22076 ("Where Do the Joules Go?"):
time and power of a step from the model card and the GPU alone, for all models together. They are effective
constants, not physics: an efficiency above what a kernel reaches only says that another term is too large.
Architecture figures of the models are those of their published configuration files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Precision = Literal["bf16", "fp8", "mxfp4"]

BLOCK_TOKENS = 16
"""Tokens per KV cache block: vLLM's default on GPUs."""

MEMORY_SHARE = 0.9
"""Share of the GPU memory that the engine takes: vLLM's default `gpu_memory_utilization`."""


DENSE_BYTES: dict[Precision, float] = {"bf16": 2.0, "fp8": 1.0, "mxfp4": 2.0}
EXPERT_BYTES: dict[Precision, float] = {"bf16": 2.0, "fp8": 1.0, "mxfp4": 4.25 / 8}
"""Bytes per parameter outside the experts and in them. Checkpoints in mxfp4 keep all but the experts in bf16;
4.25 bits are 4 and a scale of 8 bits for each 32 of them (OCP Microscaling Formats 1.0)."""


@dataclass(frozen=True, slots=True)
class GpuCard:
    """One GPU. Efficiencies are the reached share of the data sheet's figure."""

    name: str
    memory_bytes: float
    bandwidth_bytes_s: float
    flops_s: float
    tdp_w: float
    idle_power_w: float
    busy_power_w: float
    pj_per_byte: float
    pj_per_flop: float
    cap_share: float
    memory_efficiency: float
    kv_efficiency: float
    flop_efficiency: float
    prefill_efficiency: float

    @property
    def cap_w(self) -> float:
        """Power at which the sustained draw levels off, in watts."""
        return self.cap_share * self.tdp_w


@dataclass(frozen=True, slots=True)
class ModelCard:
    """One model. `expert_params` are the weights of all experts: 0, with 1 expert, if it is dense.

    `attention_width` is query heads x head size; `kv_bytes_per_token` is 2 (key and value) x layers x
    KV heads x head size x 2 bytes, without layers whose window is too short to matter. `state_bytes` is what
    layers without a KV cache (Mamba) keep per sequence: read and written in each step.
    """

    name: str
    hf_id: str
    total_params: float
    active_params: float
    layers: int
    hidden: int
    attention_width: int
    kv_bytes_per_token: int
    max_model_len: int
    expert_params: float = 0.0
    experts: int = 1
    experts_per_token: int = 1
    precision: Precision = "bf16"
    state_bytes: float = 0.0

    @property
    def is_moe(self) -> bool:
        return self.experts > 1

    @property
    def weight_bytes(self) -> float:
        """All weights, in bytes."""
        return self.dense_bytes + self.expert_bytes

    @property
    def dense_bytes(self) -> float:
        """Weights that every step reads, in bytes."""
        return DENSE_BYTES[self.precision] * (self.total_params - self.expert_params)

    @property
    def expert_bytes(self) -> float:
        """Weights of all experts, in bytes; a step reads the part that its tokens choose."""
        return EXPERT_BYTES[self.precision] * self.expert_params


# Fitted: busy_power_w, pj_per_*, cap_share, *_efficiency. Idle power with a model loaded is an assumption:
# 110 W for an H100, 140 W for a B200.
H100 = GpuCard(
    name="NVIDIA H100 80GB HBM3",
    memory_bytes=80e9,
    bandwidth_bytes_s=3.35e12,
    flops_s=989e12,
    tdp_w=700.0,
    idle_power_w=110.0,
    busy_power_w=283.0,
    pj_per_byte=59.0,
    pj_per_flop=2.76,
    cap_share=0.875,
    memory_efficiency=0.97,
    kv_efficiency=0.95,
    flop_efficiency=0.91,
    prefill_efficiency=0.42,
)
B200 = GpuCard(
    name="NVIDIA B200",
    memory_bytes=180e9,
    bandwidth_bytes_s=8.0e12,
    flops_s=2250e12,
    tdp_w=1000.0,
    idle_power_w=140.0,
    busy_power_w=380.0,
    pj_per_byte=87.0,
    pj_per_flop=0.83,
    cap_share=1.0,
    memory_efficiency=0.77,
    kv_efficiency=0.83,
    flop_efficiency=1.0,
    prefill_efficiency=0.60,
)
GPUS = {"h100": H100, "b200": B200}

LLAMA_8B = ModelCard(
    name="llama-3.1-8b",
    hf_id="meta-llama/Llama-3.1-8B-Instruct",
    total_params=8.03e9,
    active_params=8.03e9,
    layers=32,
    hidden=4096,
    attention_width=32 * 128,
    kv_bytes_per_token=2 * 32 * 8 * 128 * 2,
    max_model_len=131_072,
)
LLAMA_70B = ModelCard(
    name="llama-3.1-70b",
    hf_id="meta-llama/Llama-3.1-70B-Instruct",
    total_params=70.6e9,
    active_params=70.6e9,
    layers=80,
    hidden=8192,
    attention_width=64 * 128,
    kv_bytes_per_token=2 * 80 * 8 * 128 * 2,
    max_model_len=131_072,
)
QWEN_30B_A3B = ModelCard(
    name="qwen3-30b-a3b",
    hf_id="Qwen/Qwen3-30B-A3B-Instruct-2507",
    total_params=30.5e9,
    active_params=3.3e9,
    layers=48,
    hidden=2048,
    attention_width=32 * 128,
    kv_bytes_per_token=2 * 48 * 4 * 128 * 2,
    max_model_len=262_144,
    expert_params=48 * 128 * 3 * 2048 * 768,
    experts=128,
    experts_per_token=8,
)
TINY = ModelCard(
    name="tiny",
    hf_id="joulegate/tiny",
    total_params=2.7e6,
    active_params=2.7e6,
    layers=2,
    hidden=128,
    attention_width=4 * 32,
    kv_bytes_per_token=2 * 2 * 2 * 32 * 2,
    max_model_len=8_192,
)
MODELS = {m.name: m for m in (LLAMA_8B, LLAMA_70B, QWEN_30B_A3B, TINY)}

MOST_BLOCKS = 65_536
"""Upper bound of the derived number of KV blocks (1 M tokens): a tiny model would get absurdly many."""


def kv_blocks(model: ModelCard, gpu: GpuCard, gpus: int, most: int = MOST_BLOCKS) -> int:
    """KV cache blocks that fit beside the weights on `gpus` GPUs; 0 or less if the weights do not fit."""
    free_bytes = MEMORY_SHARE * gpu.memory_bytes * gpus - model.weight_bytes
    return min(most, int(free_bytes // (model.kv_bytes_per_token * BLOCK_TOKENS)))
