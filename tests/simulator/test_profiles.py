"""The fitted profiles: complete, sane, and near what was published."""

from __future__ import annotations

import numpy as np
import pytest

from simulator.cards import GPUS
from simulator.cards_measured import MEASURED
from simulator.physics import PrefillChunk
from simulator.physics_fitted import FittedPhysics, generic_physics
from simulator.profiles import Profile, find, generic, profiles

EVERY = [pytest.param(profile, id="-".join(map(str, profile.key))) for profile in profiles().values()]


def test_every_measured_model_has_a_profile_and_every_profile_a_card() -> None:
    assert {profile.model for profile in profiles().values()} == set(MEASURED)


def test_the_fits_are_near_the_published_points() -> None:
    for quantity, median, most in (("tokens_per_s", 0.03, 0.15), ("joules_per_token", 0.03, 0.10)):
        errors = [profile.errors[quantity][0] for profile in profiles().values()]
        assert np.median(errors) < median
        assert np.percentile(errors, 90) < most


@pytest.mark.parametrize("profile", EVERY)
def test_a_step_is_shared_out_whole_and_keeps_to_the_power_limit(profile: Profile) -> None:
    physics = FittedPhysics(profile)
    chunks = [PrefillChunk(300, 0)]
    for contexts in ([1], [500] * 8, [500] * 600):
        cost = physics.step(contexts, chunks)
        assert sum(cost.decode_j) + sum(cost.prefill_j) == pytest.approx(cost.energy_j)
        assert min(cost.decode_j + cost.prefill_j) > 0
        limit_w = profile.gpus * GPUS[profile.gpu].tdp_w
        assert 0 < cost.energy_j / cost.time_s <= limit_w * (1 + 1e-9)
        totals = physics.totals(len(contexts), sum(contexts), chunks)
        assert totals == pytest.approx((cost.time_s, cost.energy_j))


@pytest.mark.parametrize("profile", EVERY)
def test_at_the_mean_lengths_the_parts_make_up_the_fit(profile: Profile) -> None:
    physics, batch = FittedPhysics(profile), 32
    time, _ = physics.rates(batch, batch)
    steps = profile.answer_tokens
    prompt = PrefillChunk(round(profile.prompt_tokens), 0)
    cost_alone, cost_with = physics.totals(0, 0, [prompt])[0], physics.rates(1, prompt.tokens)[0]
    flop_s = cost_alone - cost_with.common - cost_with.tokens - cost_with.chunk
    context_s = time.kv * profile.context_tokens * (1 - 1 / steps)
    assert time.decode + context_s + flop_s / steps == pytest.approx(profile.time_s.request, rel=1e-6)


def test_the_first_task_is_found_where_none_is_asked_for() -> None:
    found = find("Qwen/Qwen3-14B", "h100", 1)
    assert found is not None
    assert found.task == "chat"
    other = find("Qwen/Qwen3-14B", "h100", 1, "reasoning")
    assert other is not None
    assert other.task == "reasoning"
    assert find("Qwen/Qwen3-14B", "h100", 7) is None


def test_the_card_alone_is_within_a_quarter_for_models_left_out_of_the_fit() -> None:
    assert generic()["left_out"]["joules_per_token"][0] <= 0.25


def test_fp8_and_mamba_state_cost_by_the_card() -> None:
    plain = MEASURED["meta-llama/Llama-3.1-405B-Instruct"]
    quantised = MEASURED["meta-llama/Llama-3.1-405B-Instruct-FP8"]
    assert quantised.weight_bytes == plain.weight_bytes / 2
    many = [500] * 64
    hybrid = MEASURED["nvidia/NVIDIA-Nemotron-Nano-9B-v2"]
    one, all_of_them = (generic_physics(hybrid, "h100", 1).step(many[:n]).time_s for n in (1, 64))
    state_s = 63 * 2 * hybrid.state_bytes / (GPUS["h100"].bandwidth_bytes_s * 1.2)
    assert all_of_them - one > state_s
