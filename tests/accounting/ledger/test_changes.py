"""A model reloaded, a power cap moved, a preempted request: what was learnt, and who pays."""

from __future__ import annotations

import pytest

from accounting.events import BackendDeclared, MeterUp, ModelCard
from tests.accounting.ledger.story import Gpu, Power, Story, assert_all_charged, us

BUSY = Power((-10, 100), (6.0, 600), (40.0, 100))


def learnt(story: Story) -> int:
    """Windows that the work model has learnt from."""
    return max(model.windows for model in story.ledger.state.models.values())


def busy_story() -> Story:
    story = Story([Gpu("GPU-a", BUSY)], {"main": ["GPU-a"]})
    story.request("a", 6.0, 6.1, 40.0, tokens=1000)
    story.request("b", 6.0, 6.1, 40.0, tokens=1000)
    return story


def test_another_model_on_the_same_backend_is_learnt_anew_and_running_requests_are_charged() -> None:
    story = busy_story()
    story.run(20.0)
    before = learnt(story)
    card = ModelCard(name="other", active_params=70e9, weight_bytes=140e9)
    story.say(BackendDeclared(t_us=us(20.0), backend="main", gpus=["GPU-a"], model=card))
    assert before > 5
    assert story.ledger.state.models["main"].windows == 0
    story.request("c", 21.0, 21.1, 30.0, tokens=300)
    story.run(45.0)
    assert all(story.records[name].energy_uj for name in ("a", "b", "c"))
    assert_all_charged(story)


def test_the_same_declaration_again_keeps_what_was_learnt() -> None:
    story = busy_story()
    story.run(20.0)
    before = learnt(story)
    story.say(BackendDeclared(t_us=us(20.0), backend="main", gpus=["GPU-a"]))
    assert learnt(story) == before


def test_a_power_cap_that_moves_is_learnt_anew() -> None:
    story = busy_story()
    up = {"gpu": "GPU-a", "device": "test", "method": "nvml-counter", "simulated": True}
    story.say(MeterUp(t_us=us(0.0), power_limit_mw=700_000, **up))  # type: ignore[arg-type]
    story.run(20.0)
    before = learnt(story)
    story.say(MeterUp(t_us=us(20.0), power_limit_mw=700_000, **up))  # type: ignore[arg-type]
    assert learnt(story) == before > 5
    story.say(MeterUp(t_us=us(20.1), power_limit_mw=450_000, **up))  # type: ignore[arg-type]
    assert learnt(story) == 0
    story.run(45.0)
    assert_all_charged(story)


def test_a_preempted_request_pays_nothing_while_it_waits() -> None:
    """It decodes, stands still for ten seconds, decodes again: the other one pays for the time between."""
    story = Story([Gpu("GPU-a", BUSY)], {"main": ["GPU-a"]})
    story.request("steady", 6.0, 6.1, 40.0, tokens=1000)
    handle = story.request("preempted", 6.0, 6.1, None, tokens=0)
    story.tokens(handle, 10.0, 20.0, 300)
    story.tokens(handle, 30.0, 39.9, 300)
    so_far: dict[int, int] = {}

    def note() -> None:
        state = story.ledger.state
        so_far[state.gpus["GPU-a"].settled_us] = state.open[handle].charged_uj if handle in state.open else 0

    story.run(40.0, each=note)
    assert so_far[us(29.5)] == pytest.approx(so_far[us(20.5)], rel=0.01)
    assert so_far[us(39.0)] > 1.3 * so_far[us(29.5)]
