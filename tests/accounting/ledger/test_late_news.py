"""What is told only at the end of a request: its price is mended, and nobody's books change."""

from __future__ import annotations

import pytest

from accounting.events import EngineTimes
from tests.accounting.ledger.story import Gpu, Power, Story, assert_all_charged, assert_balanced

BUSY_W = 600


def steady(until: float) -> Story:
    """A streamed request decodes all along, so that the work model has something to learn from."""
    story = Story([Gpu("GPU-a", Power((-10, 100), (6.0, BUSY_W), (until, 100)))], {"main": ["GPU-a"]})
    for i in range(4):
        story.request(f"stream-{i}", 6.0 + 0.1 * i, 6.2 + 0.1 * i, until, tokens=round((until - 6.2) * 100))
    return story


def energy(story: Story, name: str) -> int:
    energy_uj = story.records[name].energy_uj
    assert energy_uj is not None
    return energy_uj


def test_an_answer_that_was_queued_unseen_is_not_charged_for_its_waiting() -> None:
    story = steady(40.0)
    times = EngineTimes(queue_ms=9_000.0, first_token_ms=50.0, generation_ms=1_000.0)
    story.request("queued", 20.0, None, 30.05, tokens=100, streamed=False, times=times)
    story.request("seen", 29.0, 29.05, 30.05, tokens=100)
    story.run(45.0)
    assert energy(story, "queued") == pytest.approx(energy(story, "seen"), rel=0.25)
    assert_balanced(story.outputs)
    assert_all_charged(story)


def test_an_answer_that_was_not_streamed_costs_what_a_streamed_one_does() -> None:
    story = steady(40.0)
    times = EngineTimes(queue_ms=0.0, first_token_ms=50.0, generation_ms=5_000.0)
    story.request("unseen", 20.0, None, 25.05, tokens=500, streamed=False, times=times)
    story.request("seen", 20.0, 20.05, 25.05, tokens=500)
    story.run(45.0)
    assert energy(story, "unseen") == pytest.approx(energy(story, "seen"), rel=0.1)
    assert_all_charged(story)
