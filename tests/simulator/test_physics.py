"""The physics against published measurements, and the properties that any physics must have."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.cards import (
    B200,
    GPUS,
    H100,
    LLAMA_8B,
    LLAMA_70B,
    MODELS,
    QWEN_30B_A3B,
    GpuCard,
    ModelCard,
    kv_blocks,
)
from simulator.gpu import board
from simulator.physics import PrefillChunk, capped, prefill_flop, step_cost

PROMPT = 230
"""Prompt tokens of the chat task: inferred from its prefill energy, not published."""

# arXiv 2601.22076, task lm-arena-chat: model, GPU, GPUs, mean batch, mean output tokens, median ITL in ms,
# joules per output token. The simulator promises 25 % on both.
PUBLISHED = [
    (LLAMA_8B, H100, 1, 8, 389, 7.32, 0.4548),
    (LLAMA_8B, H100, 1, 16, 404, 7.91, 0.2627),
    (LLAMA_8B, H100, 1, 32, 390, 8.91, 0.1651),
    (LLAMA_8B, H100, 1, 64, 396, 11.50, 0.1186),
    (LLAMA_8B, H100, 1, 128, 405, 16.48, 0.0951),
    (LLAMA_8B, H100, 1, 256, 404, 26.13, 0.0766),
    (LLAMA_8B, H100, 1, 511, 397, 47.41, 0.0702),
    (LLAMA_8B, B200, 1, 8, 388, 4.57, 0.3905),
    (LLAMA_8B, B200, 1, 32, 398, 6.35, 0.1511),
    (LLAMA_70B, H100, 4, 8, 350, 16.57, 3.759),
    (LLAMA_70B, H100, 4, 64, 352, 22.43, 0.7972),
    (LLAMA_70B, H100, 4, 255, 349, 39.84, 0.4790),
    (LLAMA_70B, B200, 2, 64, 346, 21.75, 0.6971),
    (QWEN_30B_A3B, H100, 1, 8, 927, 12.85, 0.6531),
    (QWEN_30B_A3B, H100, 1, 64, 919, 28.94, 0.2218),
    (QWEN_30B_A3B, B200, 1, 64, 929, 19.32, 0.2493),
]


@pytest.mark.parametrize(("model", "gpu", "gpus", "batch", "output", "itl_ms", "joules"), PUBLISHED)
def test_energy_per_token_and_latency_are_near_the_published_ones(
    model: ModelCard, gpu: GpuCard, gpus: int, batch: int, output: int, itl_ms: float, joules: float
) -> None:
    contexts = [PROMPT + output * 6 // 10] * batch  # long answers are in the batch longer than short ones
    decode = step_cost(model, gpu, gpus, contexts)
    mixed = step_cost(model, gpu, gpus, contexts, [PrefillChunk(PROMPT, 0)])
    prefills_per_step = batch / output
    energy_j = decode.energy_j + prefills_per_step * (mixed.energy_j - decode.energy_j)
    assert energy_j / batch == pytest.approx(joules, rel=0.25)
    assert 1000 * decode.time_s == pytest.approx(itl_ms, rel=0.25)


models = st.sampled_from(list(MODELS.values()))
gpu_cards = st.sampled_from(list(GPUS.values()))
steps = st.tuples(
    st.lists(st.integers(1, 20_000), max_size=50),
    st.lists(st.builds(PrefillChunk, st.integers(1, 8192), st.integers(0, 20_000)), max_size=4),
).filter(lambda step: bool(step[0] or step[1]))


@given(models, gpu_cards, st.sampled_from([1, 2, 8]), steps)
def test_every_step_is_shared_out_whole_and_stays_under_the_cap(
    model: ModelCard, gpu: GpuCard, gpus: int, step: tuple[list[int], list[PrefillChunk]]
) -> None:
    cost = step_cost(model, gpu, gpus, *step)
    parts = cost.decode_j + cost.prefill_j
    assert len(parts) == len(step[0]) + len(step[1])
    assert sum(parts) == pytest.approx(cost.energy_j, rel=1e-9)
    assert min(parts) > 0
    power_w = cost.energy_j / cost.time_s
    assert gpus * gpu.idle_power_w < power_w <= gpus * gpu.cap_w


@given(models, gpu_cards, st.lists(st.integers(1, 20_000), min_size=1, max_size=50))
def test_one_more_sequence_takes_longer_and_costs_the_others_no_more(
    model: ModelCard, gpu: GpuCard, contexts: list[int]
) -> None:
    alone = step_cost(model, gpu, 1, contexts)
    together = step_cost(model, gpu, 1, [*contexts, 500])
    assert together.time_s > alone.time_s
    assert together.energy_j > alone.energy_j
    assert all(a >= b for a, b in zip(alone.decode_j, together.decode_j, strict=False))


def test_equal_requests_have_equal_shares_and_a_longer_context_a_larger_one() -> None:
    cost = step_cost(LLAMA_8B, H100, 1, [1000, 1000, 4000])
    assert cost.decode_j[0] == cost.decode_j[1] < cost.decode_j[2]


def test_prefill_in_chunks_computes_as_much_as_prefill_at_once() -> None:
    whole = prefill_flop(LLAMA_8B, PrefillChunk(1024, 0))
    halves = prefill_flop(LLAMA_8B, PrefillChunk(512, 0)) + prefill_flop(LLAMA_8B, PrefillChunk(512, 512))
    assert halves == pytest.approx(whole)


def test_the_cap_leaves_low_power_alone_and_is_never_passed() -> None:
    assert capped(300.0, 600.0) == pytest.approx(300.0, rel=0.001)
    assert capped(480.0, 600.0) == pytest.approx(480.0, rel=0.01)
    assert capped(5000.0, 600.0) <= 600.0


def test_an_empty_step_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        step_cost(LLAMA_8B, H100, 1, [])


def test_kv_blocks_are_what_memory_leaves_beside_the_weights() -> None:
    # 72 GB of 80 less 16.06 GB of weights, at 2 MiB per block of 16 tokens.
    assert kv_blocks(LLAMA_8B, H100, 1) == 26_674
    assert kv_blocks(LLAMA_70B, H100, 1) < 0


def test_cards_and_board_agree_on_the_gpus() -> None:
    for card, spec in [(H100, board.H100), (B200, board.B200)]:
        assert (card.idle_power_w, card.tdp_w, card.name) == (
            spec.idle_power_w,
            spec.power_limit_w,
            spec.name,
        )
