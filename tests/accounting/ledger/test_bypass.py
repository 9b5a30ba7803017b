"""Traffic that does not pass the proxy: the engine's counters show it, and its energy is nobody's here."""

from __future__ import annotations

import pytest

from accounting.events import EngineCounters
from tests.accounting.ledger.story import Gpu, Power, Story, assert_all_charged, assert_balanced, us

BUSY_W, BEGIN, END = 600, 6.0, 36.0


def told(story: Story, tokens_per_s: float, *, until: float = END) -> None:
    """Plan the engine's counters, every second: tokens generated at this rate between BEGIN and END."""
    for second in range(round(until) + 3):
        generated = round(max(min(second, END) - BEGIN, 0) * tokens_per_s)
        story.plan(
            second + 0.3, EngineCounters(t_us=us(second + 0.3), backend="main", generation_tokens=generated)
        )


def stream(seen: int) -> Story:
    story = Story([Gpu("GPU-a", Power((-10, 100), (BEGIN, BUSY_W), (END, 100)))], {"main": ["GPU-a"]})
    for i in range(seen):
        story.request(f"seen-{i}", BEGIN, BEGIN + 0.02, END, prompt=10, tokens=round((END - BEGIN) * 50))
    return story


def unobserved(story: Story) -> float:
    """Joules booked as unobserved once there was something to compare (ten seconds)."""
    return sum(b.unobserved_uj for b in story.books if b.t0_us >= us(BEGIN + 12) and b.t1_us <= us(END)) / 1e6


def test_half_of_the_tokens_unseen_is_half_of_the_energy_unobserved() -> None:
    story = stream(2)
    told(story, 4 * 50)
    story.run(40.0)
    assert unobserved(story) == pytest.approx(BUSY_W * (END - BEGIN - 12) / 2, rel=0.15)
    assert_balanced(story.outputs)
    assert_all_charged(story)


def test_counters_that_agree_leave_nothing_unobserved() -> None:
    story = stream(4)
    told(story, 4 * 50)
    story.run(40.0)
    assert unobserved(story) == 0
    assert_all_charged(story)


def test_an_engine_that_starts_again_is_not_taken_for_other_traffic() -> None:
    story = stream(4)
    told(story, 4 * 50, until=20.0)
    for second in range(24, 40):
        generated = round((min(second, END) - 24) * 200)
        story.plan(
            second + 0.3, EngineCounters(t_us=us(second + 0.3), backend="main", generation_tokens=generated)
        )
    story.run(42.0)
    assert unobserved(story) == 0
    assert_all_charged(story)


def test_all_of_the_traffic_elsewhere_is_unobserved_not_idle() -> None:
    story = Story([Gpu("GPU-a", Power((-10, 100), (BEGIN, 180), (END, 100)))], {"main": ["GPU-a"]})
    told(story, 100)
    story.run(40.0)
    assert unobserved(story) == pytest.approx((180 - 100) * (END - BEGIN - 12), rel=0.1)
    assert_balanced(story.outputs)


def test_short_answers_unseen_until_their_end_are_not_taken_for_other_traffic() -> None:
    """The engine says how many run at a moment, and many more come and go within an interval."""
    story = Story([Gpu("GPU-a", Power((-10, 100), (BEGIN, BUSY_W), (END, 100)))], {"main": ["GPU-a"]})
    for i in range(round((END - BEGIN) / 2)):
        start = BEGIN + 2 * i
        story.request(f"whole-{i}", start, None, start + 1.999, prompt=10, tokens=100, streamed=False)
        for n in range(40):
            at = start + n * 0.05
            story.request(f"{i}-{n}", at, at + 0.005, at + 0.1, prompt=10, tokens=5)
    rate = 50 + 100
    for second in range(round(END) + 3):
        generated = round(max(min(second, END) - BEGIN, 0) * rate)
        counters = EngineCounters(
            t_us=us(second + 0.3),
            backend="main",
            generation_tokens=generated,
            running=1 + second % 3,
            waiting=0,
        )
        story.plan(second + 0.3, counters)
    story.run(40.0)
    assert unobserved(story) < 0.01 * BUSY_W * (END - BEGIN - 12)
    assert_balanced(story.outputs)
