"""Stories whose right answer can be worked out by hand.

Power is a few round watts, the counter's edges are exact, so joules come out to the counter's grain. No test
here knows how the rule weighs prefill against decode.
"""

from __future__ import annotations

import pytest

from accounting.events import EngineTimes, MeterDown, MeterUp, RequestFinished, ServiceStarted, Status, Tick
from accounting.ledger.ledger import HOLD_US, MAX_WAIT_US
from accounting.ledger.work import INTERVAL_US
from accounting.records import RequestRecord
from tests.accounting.ledger.story import (
    TICK_US,
    Gpu,
    Power,
    Story,
    assert_balanced,
    booked_uj,
    charged_uj,
    us,
)

IDLE = 100
QUIET_S = 6.0
"""Seconds at idle before the first request: enough to learn idle power."""

GRAIN_UJ = 40_000
"""Allowed for the counter's millijoules, the microsecond between reads, and rounding."""


def joules(value: float) -> object:
    return pytest.approx(value * 1e6, abs=GRAIN_UJ)


def one_gpu(*busy: tuple[float, int], **backends: list[str]) -> Story:
    return Story([Gpu("GPU-a", Power((-10, IDLE), *busy))], backends or {"main": ["GPU-a"]})


def energy_uj(record: RequestRecord) -> int:
    assert record.energy_uj is not None
    return record.energy_uj


def assert_all_charged(story: Story) -> None:
    """Nothing is open, every microjoule that the books gave to requests is on a record."""
    assert not story.ledger.state.open
    assert_balanced(story.outputs)
    for gpu in story.ledger.state.gpus:
        assert charged_uj(story.outputs, gpu) == booked_uj(story.outputs, gpu)


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
            so_far[settled] = sum(s.prefill_uj + s.decode_uj for s in request.shares.values())

    story.run(15.0, each=note)
    assert so_far[us(10.5)] == 0
    assert max(so_far.values()) > 0
    assert 0 < energy_uj(story.records["queued"]) < 700 * 1.5 * 1e6
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


def test_a_rejected_request_costs_nothing_and_is_recorded_at_once() -> None:
    story = one_gpu()
    story.request("no", 6.1, None, 6.1, status="rejected", usage=False)
    story.run(6.1)
    record = story.records["no"]
    assert (record.energy_uj, record.status, record.method) == (0, "rejected", "not-dispatched")
    assert record.shares == []


def test_a_request_the_engine_refused_costs_nothing() -> None:
    story = one_gpu((6.0, 600), (8.0, IDLE))
    story.request("works", 6.0, 6.1, 8.0, tokens=100)
    refused = story.request("refused", 6.55, None, 6.6, status="client_error", usage=False)
    story.run(6.6)
    provisional = story.ledger.provisional(refused)
    story.run(10.0)
    assert story.records["refused"].energy_uj == 0
    assert provisional is not None
    assert provisional.energy_uj == 0
    assert story.records["works"].energy_uj == joules(1200)
    assert_all_charged(story)


@pytest.mark.parametrize("backend", [None, "nobody"])
def test_energy_of_a_request_to_a_backend_nobody_declared_is_unknown(backend: str | None) -> None:
    story = one_gpu()
    story.request("r", 6.0, 6.1, 7.0, tokens=10, backend=backend)
    story.run(7.0)
    record = story.records["r"]
    assert record.energy_uj is record.prefill_uj is record.decode_uj is record.uncertainty_uj is None
    assert (record.method, record.meter) == ("none", "none")
    assert record.completion_tokens == 10


def test_a_client_that_goes_away_is_charged_for_what_was_done_until_then() -> None:
    story = one_gpu((6.0, 600), (8.0, IDLE))
    story.request("stays", 6.0, 6.1, 8.0, tokens=190)
    story.request("goes", 6.0, 6.1, 7.0, tokens=90, status="aborted", usage=False)
    story.run(10.0)
    stays, goes = energy_uj(story.records["stays"]), energy_uj(story.records["goes"])
    assert stays + goes == joules(1200)
    assert 200e6 < goes < 350e6
    assert story.records["goes"].status == "aborted"
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


@pytest.mark.parametrize("gpus", [[], ["GPU-x"]])
def test_without_any_meter_a_request_ends_with_unknown_energy_soon(gpus: list[str]) -> None:
    story = Story([], {"main": gpus})
    story.request("r", 1.0, 1.1, 2.0, tokens=50)
    concluded: list[int] = []

    def note() -> None:
        if "r" in story.records:
            concluded.append(story.ledger.state.watermarks[0])

    story.run(20.0, each=note)
    record = story.records["r"]
    assert record.energy_uj is None
    assert record.unmeasured_us == (1_000_000 if gpus else 0)
    assert concluded[0] <= us(2.0) + INTERVAL_US + MAX_WAIT_US + TICK_US
    assert all(b.measured_uj is None for b in story.books)
    assert_balanced(story.outputs)


def test_a_measured_request_is_final_within_an_interval_and_the_hold() -> None:
    story = one_gpu()
    story.request("r", 6.0, 6.1, 7.01, tokens=50)
    story.run((7.01 * 1e6 + INTERVAL_US + HOLD_US + 2 * TICK_US) / 1e6 + 0.1)
    assert "r" in story.records


def test_a_service_that_starts_again_closes_what_it_had_left_open_as_lost() -> None:
    story = one_gpu((6.0, 600))
    story.request("streamed", 6.0, 6.1, None, tokens=300)
    story.request("whole", 6.0, None, None, streamed=False)
    story.run(8.0)
    story.say(ServiceStarted(t_us=us(20), source=0, version="test"))
    story.say(Tick(t_us=us(21), source=0))
    records = story.records
    assert {r.status for r in records.values()} == {"lost"}
    assert {r.finished_us for r in records.values()} == {us(8.0)}
    assert all(r.error for r in records.values())
    assert sum(energy_uj(r) for r in records.values()) == pytest.approx(1200e6, rel=0.06)
    assert_all_charged(story)


def test_another_service_that_starts_leaves_the_requests_of_this_one_alone() -> None:
    story = one_gpu()
    handle = story.request("r", 6.0, 6.1, None, tokens=300)
    story.run(8.0)
    story.say(ServiceStarted(t_us=us(8), source=5, version="test"))
    assert story.ledger.state.open[handle].finished_us is None


def test_no_interval_is_settled_before_every_source_has_spoken_of_it() -> None:
    story = one_gpu()
    story.say(ServiceStarted(t_us=us(2.0), source=5, version="test"))
    story.run(5.0)
    assert story.books[-1].t1_us <= us(2.0)
    story.say(Tick(t_us=us(5.0), source=5))
    assert story.books[-1].t1_us == us(4.5)


def test_a_record_comes_once_however_often_its_end_is_told() -> None:
    story = one_gpu()
    handle = story.request("r", 6.0, 6.1, 7.0, tokens=50)
    story.run(7.0)
    for _ in range(3):
        story.say(RequestFinished(t_us=us(7.0), handle=handle, status="aborted"))
    story.run(10.0)
    assert story.records["r"].status == "ok"  # `records` refuses a second one


def test_in_a_steady_load_the_provisional_figure_is_near_the_final_one() -> None:
    story = one_gpu((6.0, 700))
    handles = {}
    for i in range(60):
        name = f"r{i}"
        start = 6.0 + 0.5 * i + (0.37 * i) % 0.5
        handles[name] = story.request(name, start, start + 0.1, start + 4.0, tokens=200)
    provisional: dict[str, int] = {}

    def note() -> None:
        for name, handle in handles.items():
            request = story.ledger.state.open.get(handle)
            if request is not None and request.finished_us is not None and name not in provisional:
                record = story.ledger.provisional(handle)
                assert record is not None
                assert record.state == "provisional"
                provisional[name] = energy_uj(record)

    story.run(45.0, each=note)
    settled = {name: energy_uj(story.records[name]) for name in handles}
    steady = [name for name in handles if 15 <= int(name[1:]) < 50]
    errors = sorted(abs(provisional[n] - settled[n]) / settled[n] for n in steady)
    assert errors[len(errors) // 2] < 0.05
    assert errors[-1] < 0.15
    assert_all_charged(story)


@pytest.mark.parametrize("status", ["engine_error", "aborted", "ok"])
def test_every_end_of_a_stream_leaves_a_charge_that_balances(status: Status) -> None:
    story = one_gpu((6.0, 600), (7.0, IDLE))
    story.request("r", 6.0, 6.1, 7.0, tokens=50, status=status, usage=status == "ok")
    story.run(10.0)
    assert story.records["r"].energy_uj == joules(600)
    assert story.records["r"].status == status
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
