"""What a unit of work should cost, from the model card and the GPU alone: where the work model starts.

Each constant is an energy per unit of a feature (see `model.py`): the watts a GPU draws at that kind of work
times the time the work takes at a usual share of the GPU's bandwidth or arithmetic. n GPUs share the work, so
their bandwidths and powers add up:

    steps  480 n W / (0.85 n BW)       reading all weights (W bytes) once per engine step
    lg     a tenth of that             what grows with the logarithm of the batch (experts, scheduling)
    pre    650 n 2 A / (0.5 n F)       arithmetic of one prompt token, A active parameters
    preq   650 n 4 L H / (0.35 n F)    attention of one prompt token to one earlier one, L layers of width H
    dec    600 n 2 A / (0.4 n F)       arithmetic of one generated token
    kv     480 n kv / (0.7 n BW)       reading one token's keys and values

The watts and shares are round figures for an H100; data corrects them within a minute or so of traffic, and
factors of 3 to 5 do no harm (docs/attribution.md).
"""

from __future__ import annotations

from typing import NamedTuple

from accounting.events import ModelCard


class Gpu(NamedTuple):
    """Memory bandwidth in bytes/s, dense bf16 FLOP/s, board power in W, from NVIDIA's data sheets."""

    bandwidth: float
    flops: float
    power_w: float


GPUS = {
    "B200": Gpu(8.0e12, 2.25e15, 1000.0),
    "H200": Gpu(4.8e12, 0.989e15, 700.0),
    "GH200": Gpu(4.0e12, 0.989e15, 700.0),
    "H100": Gpu(3.35e12, 0.989e15, 700.0),
    "A100": Gpu(2.0e12, 0.312e15, 400.0),
    "L40S": Gpu(0.864e12, 0.362e15, 350.0),
    "L4": Gpu(0.3e12, 0.121e15, 72.0),
}
UNKNOWN_GPU = GPUS["H100"]
H100_POWER_W = 700.0

UNKNOWN_CARD = ModelCard(
    name="unknown",
    active_params=8e9,
    layers=32,
    hidden=4096,
    kv_bytes_per_token=131_072,
    weight_bytes=16e9,
)
"""Where no card is configured: an 8B model in bf16."""


def gpu_of(device: str | None) -> Gpu:
    """The data of a GPU by the name NVML gives it; an H100's where the name is not known."""
    name = device or ""
    return next((gpu for key, gpu in GPUS.items() if key in name), UNKNOWN_GPU)


_WATTS = (480.0, 480.0, 650.0, 650.0, 600.0, 480.0)
"""Power of an H100 at each kind of work, as above."""


def prior_seconds(card: ModelCard | None, device: str | None, gpus: int) -> list[float]:
    """Seconds per unit of each feature on so many GPUs: the times in the formulas above."""
    watts = gpu_of(device).power_w / H100_POWER_W
    joules = prior_joules(card, device)
    return [j / (w * watts * max(gpus, 1)) for j, w in zip(joules, _WATTS, strict=True)]


def prior_joules(card: ModelCard | None, device: str | None) -> list[float]:
    """Joules per unit of each feature, in the order of `model.FEATURES`. The number of GPUs cancels out."""
    gpu, given, default = gpu_of(device), card or UNKNOWN_CARD, UNKNOWN_CARD
    active = given.active_params or given.total_params or default.active_params or 1.0
    weights = given.weight_bytes or 2 * (given.total_params or active)
    attention = 4.0 * (given.layers or default.layers or 1) * (given.hidden or default.hidden or 1)
    kv = given.kv_bytes_per_token or default.kv_bytes_per_token or 1.0
    watts = gpu.power_w / H100_POWER_W
    steps = 480 * watts * weights / (0.85 * gpu.bandwidth)
    return [
        steps,
        steps / 10,
        650 * watts * 2 * active / (0.5 * gpu.flops),
        650 * watts * attention / (0.35 * gpu.flops),
        600 * watts * 2 * active / (0.4 * gpu.flops),
        480 * watts * kv / (0.7 * gpu.bandwidth),
    ]
