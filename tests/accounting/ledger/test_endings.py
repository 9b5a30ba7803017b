"""How requests end and when: each leaves one record, in time, with the energy its end deserves."""

from __future__ import annotations

import pytest

from accounting.events import (
    HANDLE_BITS,
    FirstToken,
    MeterUp,
    RequestFinished,
    RequestStarted,
    ServiceEnded,
    ServiceStarted,
    Status,
    Tick,
)
from accounting.ledger.group import Group, note_scale
from accounting.ledger.intervals import HOLD_US, INTERVAL_US, MAX_WAIT_US
from accounting.ledger.model import WorkModel
from tests.accounting.ledger.story import (
    IDLE,
    TICK_US,
    Story,
    assert_all_charged,
    assert_balanced,
    energy_uj,
    joules,
    one_gpu,
    us,
)


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


def test_a_refused_request_alone_on_the_gpu_costs_nothing_and_its_time_is_idle() -> None:
    story = one_gpu()
    story.request("refused", 6.1, None, 7.2, status="client_error", usage=False)
    story.run(7.15)
    before = sum(b.requests_uj for b in story.books)
    story.run(10.0)
    # What was settled before the refusal was known was charged; nothing after it.
    assert story.records["refused"].energy_uj == before
    short = one_gpu()
    short.request("refused", 6.1, None, 6.4, status="client_error", usage=False)
    short.run(10.0)
    assert short.records["refused"].energy_uj == 0
    assert sum(b.requests_uj for b in short.books) == 0
    assert_all_charged(short)


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


def test_nobody_waits_for_a_source_that_has_ended_and_what_it_left_open_is_lost() -> None:
    story = one_gpu((6.0, 600))
    theirs = RequestStarted(
        t_us=us(6.0), handle=(5 << HANDLE_BITS) + 1, uid="theirs", request_id="theirs", backend="main",
        model="m", route="/v1/chat/completions", streamed=True,
    )  # fmt: skip
    story.request("ours", 6.0, 6.1, None, tokens=300)
    story.say(ServiceStarted(t_us=us(5.9), source=5, version="test"))
    story.say(theirs)
    story.say(FirstToken(t_us=us(6.1), handle=theirs.handle))
    story.run(8.0)
    assert story.books[-1].t1_us <= us(6.0)
    story.say(Tick(t_us=us(7.0), source=5, handles=[theirs.handle], tokens=[90]))
    story.say(ServiceEnded(t_us=us(8.0), source=5))
    story.run(10.0)
    assert story.books[-1].t1_us > us(9.0)
    assert [(r.status, r.finished_us) for r in story.records.values()] == [("lost", us(7.0))]
    assert energy_uj(story.records["theirs"]) > 0
    assert story.ledger.next_handle(5) == theirs.handle + 1
    assert_balanced(story.outputs)


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
        open_now = story.ledger.state.open
        for name, handle in handles.items():
            request = open_now.get(handle)
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


def test_an_estimate_is_no_more_than_the_gpu_can_draw() -> None:
    """The model has learnt of small steps at a high price; the latest request is one of very many tokens."""
    story = one_gpu((6.0, 600), (7.0, IDLE), (12.0, 690), (12.2, IDLE))
    up = MeterUp(t_us=us(0.0), gpu="GPU-a", device="test", method="nvml-counter", power_limit_mw=700_000)
    story.say(up)
    story.request("small", 6.0, 6.1, 7.0, tokens=3)
    story.run(12.2)
    handle = story.request("large", 12.1, 12.15, 12.2, tokens=5_000)
    story.run(12.25)
    record = story.ledger.provisional(handle)
    assert record is not None
    assert 0 < energy_uj(record) <= 700 * 1e6 * 0.1


def test_an_interval_of_next_to_no_work_does_not_sway_the_estimate() -> None:
    group = Group(0, [], [], [], WorkModel(0), [])
    for _ in range(5):
        note_scale(group, expected_j=20.0, energy_j=24.0)
    note_scale(group, expected_j=0.2, energy_j=9.0)
    assert group.scale == pytest.approx(1.2, rel=0.05)
    for _ in range(10):
        note_scale(group, expected_j=20.0, energy_j=12.0)
    assert group.scale == pytest.approx(0.6, rel=0.1)


@pytest.mark.parametrize("status", ["engine_error", "aborted", "ok"])
def test_every_end_of_a_stream_leaves_a_charge_that_balances(status: Status) -> None:
    story = one_gpu((6.0, 600), (7.0, IDLE))
    story.request("r", 6.0, 6.1, 7.0, tokens=50, status=status, usage=status == "ok")
    story.run(10.0)
    assert story.records["r"].energy_uj == joules(600)
    assert story.records["r"].status == status
    assert_all_charged(story)
