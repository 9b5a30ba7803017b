"""Several sequences in a request, several GPUs, long contexts: each with a known answer."""

from __future__ import annotations

import pytest

from tests.accounting.ledger.story import Gpu, Power, Story, assert_all_charged

BUSY = Power((-10, 100), (6.0, 600), (16.0, 100))


def energy(story: Story, name: str) -> int:
    energy_uj = story.records[name].energy_uj
    assert energy_uj is not None
    return energy_uj


def test_n_of_2_costs_what_two_requests_do_less_one_prompt() -> None:
    story = Story([Gpu("GPU-a", BUSY)], {"main": ["GPU-a"]})
    story.request("twice", 6.0, 6.1, 16.0, prompt=10, tokens=1000, sequences=2)
    story.request("one", 6.0, 6.1, 16.0, prompt=10, tokens=500)
    story.request("other", 6.0, 6.1, 16.0, prompt=10, tokens=500)
    story.run(20.0)
    assert energy(story, "twice") == pytest.approx(energy(story, "one") + energy(story, "other"), rel=0.02)
    assert_all_charged(story)


def test_tensor_parallel_gpus_are_each_split_alike() -> None:
    story = Story([Gpu("GPU-a", BUSY), Gpu("GPU-b", Power((-10, 100), (6.0, 300), (16.0, 100)))],
                  {"main": ["GPU-a", "GPU-b"]})  # fmt: skip
    story.request("few", 6.0, 6.1, 16.0, tokens=200)
    story.request("many", 6.0, 6.1, 16.0, tokens=800)
    story.run(20.0)
    for name in ("few", "many"):
        a, b = (share.prefill_uj + share.decode_uj for share in story.records[name].shares)
        assert a == pytest.approx(2 * b, rel=0.01)
    assert_all_charged(story)


def test_long_context_costs_more_than_short_at_the_same_number_of_tokens() -> None:
    story = Story([Gpu("GPU-a", BUSY)], {"main": ["GPU-a"]})
    story.request("short", 6.0, 6.5, 16.0, prompt=100, tokens=500)
    story.request("long", 6.0, 6.5, 16.0, prompt=30_000, tokens=500)
    story.run(20.0)
    short, long = (story.records[name].decode_uj for name in ("short", "long"))
    assert short is not None
    assert long is not None
    assert long > 1.2 * short
    assert_all_charged(story)
