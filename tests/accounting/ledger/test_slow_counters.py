"""Counters that are served anew every half minute, as by a DCGM exporter: waited for, coarse, not lost."""

from __future__ import annotations

import msgspec
import pytest

from accounting.events import CounterReads, MeterUp
from accounting.ledger import Ledger
from accounting.ledger.intervals import MOST_PERIOD_US, RING, number
from accounting.ledger.state import LedgerState
from tests.accounting.ledger.story import T0_US, Gpu, Power, Story, assert_balanced, us

IDLE_W, BUSY_W = 100, 600
REQUESTS = [(70.0, 70.8), (95.0, 98.0), (110.0, 116.0), (141.0, 141.8), (170.0, 173.0), (175.0, 181.0)]


class SlowGpu(Gpu):
    """Its value changes every `update_us`, and is looked at twenty times in between."""

    update_us = 30_000_000

    def reads(self, t0_us: int, t1_us: int) -> CounterReads | None:
        look_us = self.update_us // 20
        times = list(range(-(-t0_us // look_us) * look_us, t1_us, look_us))
        values = [self.power.energy_uj(us(-50), t // self.update_us * self.update_us) // 1000 for t in times]
        return CounterReads(gpu=self.name, t_lo_us=times, t_hi_us=times, energy_mj=values) if times else None


def told(gpu: SlowGpu, until: float, *, period_us: int) -> Story:
    story = Story([gpu], {"main": [gpu.name]})
    up = MeterUp(t_us=T0_US, gpu=gpu.name, device="d", method="dcgm-counter", period_us=period_us)
    story.say(up)
    for i, (begin, end) in enumerate(REQUESTS):
        story.request(f"r{i}", begin, begin + 0.1, end, prompt=200, tokens=int((end - begin) * 50))
    story.run(until)
    return story


@pytest.fixture
def gpu() -> SlowGpu:
    steps = [(-100.0, IDLE_W)]
    for begin, end in REQUESTS:
        steps += [(begin, BUSY_W), (end, IDLE_W)]
    return SlowGpu("GPU-a", Power(*steps))


@pytest.mark.parametrize("update_s", [5, 10, 30])
def test_requests_get_the_energy_of_their_half_minute(gpu: SlowGpu, update_s: int) -> None:
    gpu.update_us = update_s * 1_000_000
    story = told(gpu, 270, period_us=gpu.update_us)
    assert_balanced(story.outputs)
    total = 0
    for i, (begin, end) in enumerate(REQUESTS):
        record = story.records[f"r{i}"]
        true_uj = gpu.power.energy_uj(us(begin), us(end))
        # Idle power is known from quiet time, and what is above it went to whoever was in flight.
        assert record.energy_uj == pytest.approx(true_uj, rel=0.1)
        assert record.unmeasured_us == 0
        total += record.energy_uj or 0
    assert total == pytest.approx(gpu.power.energy_uj(us(60), us(200)) - 140 * IDLE_W * 1e6, rel=0.2)


def test_the_uncertainty_grows_with_the_time_between_two_looks(gpu: SlowGpu) -> None:
    sigmas = []
    for update_us in (10_000_000, 30_000_000):
        gpu.update_us = update_us
        sigma_uj = told(gpu, 270, period_us=update_us).records["r1"].uncertainty_uj
        assert sigma_uj is not None
        sigmas.append(sigma_uj)
    assert sigmas[1] > 2 * sigmas[0]


def test_a_meter_that_does_not_tell_of_its_slowness_is_not_waited_for(gpu: SlowGpu) -> None:
    story = told(gpu, 270, period_us=0)
    assert_balanced(story.outputs)
    assert story.records["r1"].energy_uj is None
    assert sum(entry.unmeasured_uj for entry in story.books) > 0


def test_a_slow_meter_that_stops_does_not_hold_up_the_books_for_ever(gpu: SlowGpu) -> None:
    story = told(gpu, 100, period_us=gpu.update_us)
    gpu.metered = False
    story.run(300)
    assert story.records["r5"].energy_uj is None
    assert_balanced(story.outputs)


def test_all_the_time_waited_for_fits_into_the_ring() -> None:
    assert number(2 * MOST_PERIOD_US + 5_000_000) + 4 <= RING


def test_requests_in_flight_are_taken_up_from_a_state_with_a_smaller_ring(gpu: SlowGpu) -> None:
    before = told(gpu, 112.4, period_us=0)
    state = msgspec.convert(msgspec.to_builtins(before.ledger.state), LedgerState)
    (open_request,) = state.open.values()
    assert any(open_request.pages.values())
    settled = number(state.gpus["GPU-a"].settled_us)
    smaller = [0.0] * 16
    for k in range(settled, settled + 16):
        smaller[k % 16] = open_request.pages.get(k % RING, 0.0)
    assert sum(smaller) == sum(open_request.pages.values())
    kept, open_request.pages, open_request.tokens = open_request.pages, {}, smaller
    (taken_up,) = Ledger(state).state.open.values()
    assert taken_up.pages == kept
