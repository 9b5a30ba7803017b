"""Fits the constants of the form that needs a model card only (simulator.physics.CardPhysics), to all models.

What is fitted: the time that the host takes; how experts spread; per GPU four efficiencies, busy power,
energy per byte and per FLOP, and the cap. Residuals are logarithms of tokens per second and joules per token,
outliers pulling less (soft L1), the constants held near those of simulator/cards.py by a weak prior.

Left out are runs in which the host, not the GPU, set the pace: single B200s between 30 and 46 ms per token at
small batches whatever the model. The error for a model left out of the fit includes them.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from benchmarks.sweeps.table import Row
from simulator.cards import B200, H100
from simulator.cards_measured import MEASURED
from simulator.physics import CAP_SHARPNESS, HOST

Floats = NDArray[np.float64]
Key = tuple[str, str, int, str]

FITTED_OF_GPU = (
    "busy_power_w",
    "pj_per_byte",
    "pj_per_flop",
    "cap_share",
    "memory_efficiency",
    "kv_efficiency",
    "flop_efficiency",
    "prefill_efficiency",
)
HOST_BOUND_MS = (30.0, 46.0)
HOST_BOUND_BATCH = 300
SOFT = 0.1
PRIOR = 0.05


@dataclass(slots=True)
class Runs:
    """All runs in columns. `starts` are prefills per step; `architecture` numbers the models' cards."""

    architecture: NDArray[np.int64]
    on_b200: NDArray[np.bool_]
    host_bound: NDArray[np.bool_]
    columns: dict[str, Floats]
    tokens_per_s: Floats
    joules_per_token: Floats
    names: list[str]


def fit(ladders: dict[Key, list[Row]], profiles: list[dict[str, Any]]) -> dict[str, Any]:
    """The constants, and the error with each architecture left out in turn: median and p90."""
    runs = _columns(ladders, profiles)
    constants = _fit(runs, ~runs.host_bound)
    slow, dear = np.zeros(len(runs.tokens_per_s)), np.zeros(len(runs.tokens_per_s))
    by_architecture = {}
    for number, name in enumerate(runs.names):
        own = runs.architecture == number
        without = _fit(runs, ~own & ~runs.host_bound)
        one = _errors(without, runs)
        slow[own], dear[own] = one[0][own], one[1][own]
        errors = {"tokens_per_s": _spread(slow[own]), "joules_per_token": _spread(dear[own])}
        by_architecture[name] = {**errors, "constants": _named(without)}
    return {
        **_named(constants),
        "left_out": {
            "tokens_per_s": _spread(slow),
            "joules_per_token": _spread(dear),
            "architectures": by_architecture,
        },
    }


def _named(constants: Floats) -> dict[str, Any]:
    """As `Host` and `GpuCard` name them."""
    host = {name: _short(value) for name, value in zip(asdict(HOST), constants.tolist(), strict=False)}
    rest = constants[len(host) :].reshape(2, len(FITTED_OF_GPU)).tolist()
    gpus = {
        name: {field: _short(value) for field, value in zip(FITTED_OF_GPU, values, strict=True)}
        for name, values in zip(("h100", "b200"), rest, strict=True)
    }
    return {"host": host, "gpus": gpus}


def _columns(ladders: dict[Key, list[Row]], profiles: list[dict[str, Any]]) -> Runs:
    names: list[str] = []
    numbers: dict[tuple[float, int], int] = {}
    columns: dict[str, list[float]] = {}
    b200, bound, architecture, tokens_per_s, joules = [], [], [], [], []
    for rows, profile in zip(ladders.values(), profiles, strict=True):
        card, prompt = MEASURED[rows[0].model], profile["prompt_tokens"]
        if (card.total_params, card.layers) not in numbers:
            numbers[card.total_params, card.layers] = len(names)
            names.append(card.name)
        for row in rows:
            flop = 2 * card.active_params * prompt + 2 * card.layers * card.attention_width * prompt**2
            values = {
                "n": row.gpus,
                "batch": row.batch,
                "starts": row.batch / row.answer_tokens,
                "prompt": prompt,
                "layers": card.layers,
                "moe": card.is_moe,
                "parallel": row.gpus > 1,
                "fp8": card.precision == "fp8",
                "dense": card.dense_bytes,
                "experts": card.expert_bytes,
                "missed": 1 - card.experts_per_token / card.experts if card.is_moe else 1.0,
                "kv": row.batch
                * (card.kv_bytes_per_token * profile["context_tokens"] + 2 * card.state_bytes),
                "flop": row.batch * 2 * card.active_params,
                "prefill": row.batch / row.answer_tokens * flop,
            }
            for name, value in values.items():
                columns.setdefault(name, []).append(float(value))
            architecture.append(numbers[card.total_params, card.layers])
            b200.append(row.gpu == "b200")
            slow = HOST_BOUND_MS[0] < row.itl_ms < HOST_BOUND_MS[1] and row.batch < HOST_BOUND_BATCH
            bound.append(row.gpu == "b200" and row.gpus == 1 and slow)
            tokens_per_s.append(row.tokens_per_s)
            joules.append(row.joules_per_token)
    return Runs(
        np.array(architecture),
        np.array(b200),
        np.array(bound),
        {name: np.array(values) for name, values in columns.items()},
        np.array(tokens_per_s),
        np.array(joules),
        names,
    )


def _start() -> Floats:
    fitted = [[getattr(gpu, name) for name in FITTED_OF_GPU] for gpu in (H100, B200)]
    return np.array([*asdict(HOST).values(), *fitted[0], *fitted[1]])


def _predict(constants: Floats, runs: Runs) -> tuple[Floats, Floats]:
    """Tokens per second and joules per token."""
    step, layer, moe, parallel, fp8, sequence, spread, expert_efficiency = constants[:8]
    two = constants[8:].reshape(2, len(FITTED_OF_GPU))
    busy, per_byte, per_flop, cap, memory, kv, flop, prefill = np.where(
        runs.on_b200, two[1][:, None], two[0][:, None]
    )
    c = runs.columns
    bandwidth = c["n"] * np.where(runs.on_b200, B200.bandwidth_bytes_s, H100.bandwidth_bytes_s)
    speed = c["n"] * np.where(runs.on_b200, B200.flops_s, H100.flops_s)
    some = 1 - np.exp(-c["starts"])
    alone = c["batch"] ** spread
    mixed = (c["batch"] + c["prompt"] * c["starts"] / some) ** spread
    share = 1 - (1 - some) * c["missed"] ** alone - some * c["missed"] ** mixed
    experts = c["experts"] * share
    time_s = step + c["layers"] * (layer + moe * c["moe"] + parallel * c["parallel"] + fp8 * c["fp8"])
    time_s += sequence * c["batch"] + c["dense"] / (bandwidth * memory)
    time_s += experts / (bandwidth * memory * expert_efficiency) + c["kv"] / (bandwidth * kv)
    time_s += c["flop"] / (speed * flop) + c["prefill"] / (speed * prefill)
    asked_j = per_byte * 1e-12 * (c["dense"] + experts + c["kv"])
    asked_j += per_flop * 1e-12 * (c["flop"] + c["prefill"])
    power_w = c["n"] * busy + asked_j / time_s
    cap_w = c["n"] * cap * np.where(runs.on_b200, B200.tdp_w, H100.tdp_w)
    power_w *= (1 + (power_w / cap_w) ** CAP_SHARPNESS) ** (-1 / CAP_SHARPNESS)
    return c["batch"] / time_s, power_w * time_s / c["batch"]


def _fit(runs: Runs, used: NDArray[np.bool_]) -> Floats:
    start = np.log(_start())
    pull = PRIOR * np.sqrt(used.sum() / 50)

    def residuals(logs: Floats) -> Floats:
        tokens_per_s, joules = _predict(np.exp(logs), runs)
        slow = np.log(tokens_per_s / runs.tokens_per_s)[used]
        dear = np.log(joules / runs.joules_per_token)[used]
        return np.concatenate([slow, dear, pull * (logs - start)])

    found = least_squares(residuals, start, loss="soft_l1", f_scale=SOFT)
    constants: Floats = np.exp(found.x)
    return constants


def _errors(constants: Floats, runs: Runs) -> tuple[Floats, Floats]:
    tokens_per_s, joules = _predict(constants, runs)
    return abs(tokens_per_s / runs.tokens_per_s - 1), abs(joules / runs.joules_per_token - 1)


def _spread(errors: Floats) -> list[float]:
    return [_short(np.median(errors), 2), _short(np.percentile(errors, 90), 2)]


def _short(value: float, digits: int = 4) -> float:
    return float(f"{value:.{digits}g}")
