"""Work done in turn: a long prompt in chunks beside decodes, a try that failed and the next one."""

from __future__ import annotations

from tests.accounting.ledger.story import Gpu, Power, Story, assert_all_charged, charged_uj, us

BUSY = Power((-10, 100), (6.0, 600), (40.0, 100))


def test_a_long_prompt_in_chunks_beside_decodes_pays_for_its_prefill_and_nothing_before_its_time() -> None:
    story = Story([Gpu("GPU-a", BUSY)], {"main": ["GPU-a"]})
    story.request("steady", 6.0, 6.1, 40.0, tokens=1000)
    story.request("long", 25.0, 28.0, 28.5, prompt=30_000, tokens=25)
    story.request("short", 25.0, 28.1, 28.5, prompt=30, tokens=25)
    story.run(45.0)
    long, short = story.records["long"], story.records["short"]
    assert long.prefill_uj is not None
    assert short.prefill_uj is not None
    assert long.prefill_uj > 20 * short.prefill_uj
    assert_all_charged(story)


def test_a_failed_try_and_the_next_one_each_pay_for_their_own_work() -> None:
    story = Story([Gpu("GPU-a", BUSY)], {"main": ["GPU-a"]})
    story.request("try", 6.0, 6.1, 10.0, tokens=200, status="engine_error", usage=False)
    story.request("retry", 10.0, 10.1, 18.0, tokens=400)
    story.run(25.0)
    first, second = story.records["try"].energy_uj, story.records["retry"].energy_uj
    assert first is not None
    assert second is not None
    assert 1.8 < second / first < 2.2
    assert first + second == charged_uj(story.outputs, "GPU-a")
    assert story.records["try"].finished_us == us(10.0)
    assert_all_charged(story)
