"""A request shorter than the counter's period, alone on the GPU: its energy is found all the same."""

from __future__ import annotations

import pytest

from tests.accounting.ledger.story import Gpu, Power, Story, assert_all_charged

IDLE_W, BUSY_W, LENGTH_S = 80, 600, 0.05


@pytest.mark.parametrize("start", [6.9, 6.96, 6.975, 6.99, 7.0, 7.02, 7.43, 7.46, 7.49])
@pytest.mark.parametrize("phase_us", [0, 37_000, 81_000])
def test_a_request_of_50_ms_is_charged_what_it_drew_wherever_it_lies(start: float, phase_us: int) -> None:
    """Straight lines between the edges are off by up to a third here."""
    power = Power((-10, IDLE_W), (start, BUSY_W), (start + LENGTH_S, IDLE_W))
    story = Story([Gpu("GPU-a", power, phase_us=phase_us)], {"main": ["GPU-a"]})
    story.request("r", start, start + 0.01, start + LENGTH_S, tokens=5)
    story.run(12.0)
    assert story.records["r"].energy_uj == pytest.approx(BUSY_W * LENGTH_S * 1e6, rel=0.03)
    assert_all_charged(story)


def test_a_request_is_charged_though_the_gpu_draws_less_than_it_did_at_idle() -> None:
    story = Story([Gpu("GPU-a", Power((-10, IDLE_W), (6.0, IDLE_W - 20)))], {"main": ["GPU-a"]})
    story.request("r", 7.1, 7.104, 7.105, tokens=2)
    story.run(12.0)
    assert story.records["r"].energy_uj == pytest.approx((IDLE_W - 20) * 0.005 * 1e6, rel=0.03)
    assert_all_charged(story)


def test_the_dynamic_part_leaves_out_idle_power() -> None:
    power = Power((-10, IDLE_W), (6.1, BUSY_W), (8.1, IDLE_W))
    story = Story([Gpu("GPU-a", power)], {"main": ["GPU-a"]})
    story.request("r", 6.1, 6.2, 8.1, tokens=100)
    story.run(12.0)
    assert story.records["r"].dynamic_uj == pytest.approx((BUSY_W - IDLE_W) * 2.0 * 1e6, rel=0.02)


def test_the_dynamic_part_is_null_while_idle_power_is_not_known() -> None:
    story = Story([Gpu("GPU-a", Power((-10, BUSY_W)))], {"main": ["GPU-a"]})
    story.request("r", 0.5, 0.6, 2.0, tokens=100)
    story.run(5.0)
    assert story.records["r"].energy_uj
    assert story.records["r"].dynamic_uj is None
