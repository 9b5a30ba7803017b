"""Stories whose right answer can be worked out by hand.

Power is a few round watts, the counter's edges are exact, so joules come out to the counter's grain. No test
here knows how the rule weighs prefill against decode.
"""

from __future__ import annotations

import pytest

from accounting.events import (
    EngineTimes,
    MeterDown,
    MeterUp,
)
from tests.accounting.ledger.story import (
    IDLE,
    Gpu,
    Power,
    Story,
    assert_all_charged,
    assert_balanced,
    energy_uj,
    joules,
    one_gpu,
    us,
)


def test_a_request_alone_gets_all_the_energy_of_its_time_and_idle_the_rest() -> None:
    story = one_gpu((6.25, 600), (7.75, IDLE))
    story.request("r", 6.25, 6.35, 7.75, tokens=140)
    story.run(10.0)
    record = story.records["r"]
    assert record.energy_uj == joules(600 * 1.5)
    assert sum(b.idle_uj for b in story.books) == joules(IDLE * (story.books[-1].t1_us - us(0)) / 1e6 - 150)
    assert (record.unmeasured_us, record.state, record.meter) == (0, "final", "nvml-counter")
    assert (record.status, record.completion_tokens, record.prompt_tokens) == ("ok", 140, 100)
    assert (record.started_us, record.first_token_us, record.finished_us) == (us(6.25), us(6.35), us(7.75))
    assert record.prefill_uj
    assert record.decode_uj
    assert record.simulated
    assert_all_charged(story)


def test_before_idle_power_is_learnt_idle_time_pays_its_share_of_the_interval() -> None:
    story = one_gpu((0.25, 600), (1.25, IDLE))
    story.request("r", 0.25, 0.3, 1.25, tokens=100)
    story.run(4.0)
    # Without knowledge of idle power: by time in the halves [0, .5) and [1, 1.5), all in between.
    assert story.records["r"].energy_uj == joules(175 / 2 + 300 + 175 / 2)
    assert_all_charged(story)


def test_two_identical_requests_get_the_same() -> None:
    story = one_gpu((6.2, 700), (9.1, IDLE))
    for name in ("a", "b"):
        story.request(name, 6.2, 6.3, 9.1, tokens=150)
    story.run(12.0)
    a, b = story.records["a"], story.records["b"]
    assert energy_uj(a) == pytest.approx(energy_uj(b), abs=20)
    assert energy_uj(a) + energy_uj(b) == joules(700 * 2.9)
    assert_all_charged(story)


def test_twice_the_tokens_over_the_same_time_cost_more() -> None:
    story = one_gpu((6.0, 700), (9.0, IDLE))
    story.request("many", 6.0, 6.1, 9.0, tokens=200)
    story.request("few", 6.0, 6.1, 9.0, tokens=100)
    story.run(12.0)
    assert energy_uj(story.records["many"]) > 1.3 * energy_uj(story.records["few"])
    assert_all_charged(story)


def test_a_request_pays_nothing_while_it_is_queued_behind_another() -> None:
    story = one_gpu((6.0, 700), (12.0, IDLE))
    story.request("works", 6.0, 6.1, 12.0, tokens=300)
    queued = story.request("queued", 6.0, 11.0, 12.0, prompt=200, tokens=50)
    so_far: dict[int, int] = {}

    def note() -> None:
        request = story.ledger.state.open.get(queued)
        settled = story.ledger.state.gpus["GPU-a"].settled_us
        if request is not None:
            so_far[settled] = request.charged_uj

    story.run(15.0, each=note)
    assert so_far[us(10.5)] == 0
    assert max(so_far.values()) > 0
    record = story.records["queued"]
    assert 0 < energy_uj(record) < 700 * 1.5 * 1e6
    assert record.scheduled_us is not None
    assert us(10.5) <= record.scheduled_us < us(11.0)
    assert_all_charged(story)


def test_a_prefill_alone_that_shows_nothing_for_seconds_still_pays_for_them() -> None:
    story = one_gpu((6.0, 700), (11.0, IDLE))
    story.request("long", 6.0, 10.0, 11.0, prompt=30_000, tokens=30)
    story.run(14.0)
    assert story.records["long"].energy_uj == joules(700 * 5)
    assert_all_charged(story)


def test_energy_far_above_idle_without_requests_is_unobserved() -> None:
    story = one_gpu((8.0, 500), (9.0, IDLE))
    story.run(12.0)
    assert sum(b.unobserved_uj for b in story.books) == joules(400)
    assert sum(b.requests_uj for b in story.books) == 0
    assert_balanced(story.outputs)


def test_a_request_across_a_counter_reset_is_a_lower_bound_and_says_for_how_long() -> None:
    story = Story(
        [Gpu("GPU-a", Power((-10, IDLE), (6.0, 600), (10.0, IDLE)), resets=[8.0])], {"main": ["GPU-a"]}
    )
    story.request("r", 6.0, 6.1, 10.0, tokens=100)
    story.run(13.0)
    record = story.records["r"]
    assert 0 < record.unmeasured_us <= 300_000
    assert energy_uj(record) < 600 * 4 * 1e6
    assert energy_uj(record) == pytest.approx(600 * 4 * 1e6 - record.unmeasured_us * 600, rel=0.02)
    assert_all_charged(story)


def test_time_the_meter_was_away_is_a_lower_bound_and_its_energy_is_unmeasured() -> None:
    story = Story(
        [Gpu("GPU-a", Power((-10, IDLE), (6.0, 600), (30.0, IDLE)), hidden=[(10.0, 20.0)])],
        {"main": ["GPU-a"]},
    )
    story.request("r", 6.0, 6.1, 30.0, tokens=2000)
    story.run(12.0)
    story.say(MeterDown(t_us=us(12), gpu="GPU-a", code="GPU_IS_LOST", message="gone"))
    story.run(20.0)
    story.say(MeterUp(t_us=us(20), gpu="GPU-a", device="test", method="nvml-counter", simulated=True))
    story.run(38.0)
    record = story.records["r"]
    assert 9.5e6 < record.unmeasured_us <= 10.5e6
    assert energy_uj(record) == pytest.approx(600 * 14 * 1e6, rel=0.02)
    assert sum(b.unmeasured_uj for b in story.books) == pytest.approx(600 * 10 * 1e6, rel=0.02)
    counted = sum(b.measured_uj or 0 for b in story.books)
    known_s = (story.books[-1].t1_us - us(0)) / 1e6
    assert counted == joules(IDLE * (known_s - 24) + 600 * 24)
    assert_all_charged(story)


def test_a_request_pays_on_every_gpu_of_its_backend() -> None:
    story = Story(
        [
            Gpu("GPU-a", Power((-10, IDLE), (6.0, 600), (8.0, IDLE))),
            Gpu("GPU-b", Power((-10, IDLE), (6.0, 400), (8.0, IDLE))),
        ],
        {"main": ["GPU-a", "GPU-b"]},
    )
    story.request("r", 6.0, 6.1, 8.0, tokens=100)
    story.run(10.0)
    record = story.records["r"]
    shares = {s.gpu: s.prefill_uj + s.decode_uj for s in record.shares}
    assert shares["GPU-a"] == joules(1200)
    assert shares["GPU-b"] == joules(800)
    assert energy_uj(record) == sum(shares.values())
    assert_all_charged(story)


def test_where_one_of_two_gpus_cannot_be_read_the_figure_is_a_lower_bound() -> None:
    story = Story(
        [
            Gpu("GPU-a", Power((-10, IDLE), (6.0, 600), (8.0, IDLE))),
            Gpu("GPU-b", Power((-10, IDLE)), metered=False),
        ],
        {"main": ["GPU-a", "GPU-b"]},
    )
    story.request("r", 6.0, 6.1, 8.0, tokens=100)
    story.run(16.0)
    record = story.records["r"]
    assert record.energy_uj == joules(1200)
    assert record.unmeasured_us == 2_000_000
    assert_all_charged(story)


def test_a_neighbour_on_another_gpu_does_not_pay() -> None:
    story = Story(
        [
            Gpu("GPU-a", Power((-10, IDLE), (6.0, 600), (8.0, IDLE))),
            Gpu("GPU-b", Power((-10, IDLE))),
        ],
        {"main": ["GPU-a"], "other": ["GPU-b"]},
    )
    story.request("a", 6.0, 6.1, 8.0, tokens=100)
    story.request("b", 6.0, 6.1, 8.0, tokens=100, backend="other")
    story.run(10.0)
    assert story.records["a"].energy_uj == joules(1200)
    assert story.records["b"].energy_uj == joules(200)
    assert_all_charged(story)


def test_two_backends_on_one_gpu_share_its_energy() -> None:
    story = one_gpu((6.0, 600), (8.0, IDLE), main=["GPU-a"], other=["GPU-a"])
    story.request("a", 6.0, 6.1, 8.0, tokens=100)
    story.request("b", 6.0, 6.1, 8.0, tokens=100, backend="other")
    story.run(10.0)
    a, b = energy_uj(story.records["a"]), energy_uj(story.records["b"])
    assert a + b == joules(1200)
    assert a == pytest.approx(b, rel=0.01)
    assert_all_charged(story)


def test_a_whole_answer_without_times_gets_all_the_energy_when_alone() -> None:
    story = one_gpu((6.25, 600), (7.75, IDLE))
    story.request("r", 6.25, None, 7.75, tokens=140, streamed=False)
    story.run(10.0)
    assert story.records["r"].energy_uj == joules(900)
    assert_all_charged(story)


def test_the_engines_own_times_put_the_work_of_a_whole_answer_where_it_was_done() -> None:
    """Two answers of 0.6 s, one after the other, the second sent early and queued for 0.6 s."""
    story = one_gpu((6.0, 600), (7.2, IDLE))
    first_times = EngineTimes(queue_ms=0.0, first_token_ms=50.0, generation_ms=550.0)
    second_times = EngineTimes(queue_ms=600.0, first_token_ms=50.0, generation_ms=550.0)
    story.request("first", 6.0, None, 6.6, tokens=60, streamed=False, times=first_times)
    story.request("second", 6.0, None, 7.2, tokens=60, streamed=False, times=second_times)
    story.run(10.0)
    first, second = story.records["first"], story.records["second"]
    assert energy_uj(first) + energy_uj(second) == joules(720)
    assert second.first_token_us == us(7.2) - 550_000
    assert_all_charged(story)


def test_a_request_charged_for_one_microsecond_of_its_interval_has_a_figure() -> None:
    gpu = Gpu("GPU-a", Power((-10, 600)), hidden=[(-1, 6.35)])
    story = Story([gpu], {"main": ["GPU-a"]})
    late = MeterUp(t_us=us(0), gpu="GPU-a", device="test", method="nvml-counter", lag_us=-99_999)
    story.say(late)  # the first edge comes out at 6.499999 s
    story.request("r", 6.1, 6.2, 6.4, tokens=20)
    story.run(10.0)
    record = story.records["r"]
    assert record.energy_uj is not None
    assert 0 < record.energy_uj <= 600
    assert record.unmeasured_us == 300_000 - 1
    assert_all_charged(story)
