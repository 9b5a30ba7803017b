from __future__ import annotations

import pytest

from accounting.events import EngineTimes, RequestFinished, Tick, Usage
from accounting.ledger.sanity import MAX_TOKENS, sound_times, sound_usage
from tests.accounting.ledger.story import Gpu, Power, Story, assert_balanced, us


def test_counts_that_can_be_true_are_kept() -> None:
    usage = Usage(prompt_tokens=0, cached_tokens=12, completion_tokens=MAX_TOKENS)
    assert sound_usage(usage) == usage
    assert sound_usage(None) is None


def test_counts_that_cannot_be_true_are_not_told() -> None:
    usage = Usage(prompt_tokens=-1, cached_tokens=MAX_TOKENS + 1, completion_tokens=7)
    assert sound_usage(usage) == Usage(completion_tokens=7)


def test_times_that_cannot_be_true_are_not_told() -> None:
    times = EngineTimes(queue_ms=float("nan"), first_token_ms=-1.0, generation_ms=12.5)
    assert sound_times(times) == EngineTimes(generation_ms=12.5)
    assert sound_times(EngineTimes(queue_ms=float("inf"), first_token_ms=1e300)) == EngineTimes()
    assert sound_times(None) is None


@pytest.mark.parametrize(
    "usage",
    [
        Usage(prompt_tokens=-100, completion_tokens=-5),
        Usage(prompt_tokens=10**30, completion_tokens=10**30),
        Usage(prompt_tokens=10, cached_tokens=-(10**30), completion_tokens=3),
    ],
)
@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize("number", [float("nan"), float("inf"), -1e300, 1e300])
def test_an_engine_that_tells_nonsense_does_not_unbalance_the_books(
    usage: Usage, streamed: bool, number: float
) -> None:
    story = Story([Gpu("GPU-a", Power((-1, 100), (1, 500)))], {"main": ["GPU-a"]})
    handle = story.request("odd", 1.0, 1.1, None, tokens=20, streamed=streamed)
    story.request("plain", 1.0, 1.1, 2.0, tokens=20)
    story.run(2.0)
    times = EngineTimes(queue_ms=number, first_token_ms=number, generation_ms=number)
    story.say(RequestFinished(t_us=us(2.0), handle=handle, status="ok", usage=usage, times=times))
    story.run(4.0)
    assert_balanced(story.outputs)
    odd, plain = story.records["odd"], story.records["plain"]
    assert odd.energy_uj is not None
    assert plain.energy_uj is not None
    assert sum(b.requests_uj for b in story.books) == odd.energy_uj + plain.energy_uj


def test_an_absurd_count_of_tokens_is_let_go() -> None:
    story = Story([Gpu("GPU-a", Power((-1, 100)))], {"main": ["GPU-a"]})
    handle = story.request("r", 1.0, 1.1, None, tokens=0)
    story.run(2.0)
    story.say(Tick(t_us=us(2.01), source=0, handles=[handle] * 3, tokens=[MAX_TOKENS + 1, -4, 5]))
    assert story.ledger.state.open[handle].numbers["seen"] == 5
