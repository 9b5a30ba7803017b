"""The host's energy: in the GPUs' proportion, in books of its own, never part of a GPU's."""

from __future__ import annotations

import msgspec
import pytest

from accounting.events import (
    CounterReads,
    MeterDown,
    MeterMethod,
    MeterUp,
    RequestMoved,
    ServiceStarted,
)
from accounting.ledger import Ledger
from accounting.ledger.curve import Curve
from accounting.ledger.intervals import INTERVAL_US
from accounting.ledger.state import GpuState, LedgerState
from accounting.records import BookEntry, RequestRecord, boundary_of
from tests.accounting.ledger.story import (
    IDLE,
    Gpu,
    Power,
    Story,
    assert_all_charged,
    assert_balanced,
    energy_uj,
    host_charged_uj,
    joules,
    one_gpu,
    us,
    written_and_read,
)

HOST = "host:here"


def with_host(
    story: Story,
    *steps: tuple[float, int],
    hidden: tuple[tuple[float, float], ...] = (),
    node: str | None = None,
    method: MeterMethod = "rapl",
    name: str = HOST,
    at: float = 0.0,
) -> Story:
    """A host besides, of the power told: read as GPUs are."""
    story.gpus.append(Gpu(name, Power((-10, steps[0][1]), *steps[1:]), hidden=hidden))
    story.plan(at, MeterUp(t_us=us(at), gpu=name, device="RAPL", method=method, node=node))
    return story


def books_of(story: Story, device: str) -> list[BookEntry]:
    return [entry for entry in story.books if entry.gpu == device]


def host_uj(record: RequestRecord) -> int:
    assert record.host_uj is not None
    return record.host_uj


def of_host(record: RequestRecord) -> tuple[int | None, str | None, int | None]:
    return record.host_uj, record.host_method, record.host_unmeasured_us


def assert_host_balanced(story: Story) -> None:
    """All is settled: books and records of hosts agree to the microjoule, and so do those of GPUs."""
    assert_all_charged(story)
    hosts = [entry for entry in story.books if boundary_of(entry.gpu) == "host"]
    assert host_charged_uj(story.outputs) == sum(entry.requests_uj for entry in hosts)


def test_two_requests_with_known_gpu_shares_get_the_hosts_joules_in_that_proportion() -> None:
    busy = Power((-10, IDLE), (7, 700), (8, IDLE))
    double = Power((-10, IDLE), (7, 1400), (8, IDLE))
    story = Story([Gpu("GPU-a", busy), Gpu("GPU-b", double)], {"one": ["GPU-a"], "two": ["GPU-b"]})
    with_host(story, (0, 300))
    story.request("a", 7.0, 7.1, 8.0, tokens=40, backend="one")
    story.request("b", 7.0, 7.1, 8.0, tokens=40, backend="two")
    story.run(until=12)
    a, b = story.records["a"], story.records["b"]
    assert energy_uj(a) == joules(700)
    assert energy_uj(b) == joules(1400)
    assert host_uj(a) == joules(100)
    assert host_uj(b) == joules(200)
    assert a.host_method == b.host_method == "rapl"
    assert a.host_unmeasured_us == 0
    assert sum(share.prefill_uj + share.decode_uj for share in a.shares) == a.energy_uj
    assert_host_balanced(story)


def test_two_requests_in_one_batch_get_the_host_as_they_got_the_gpu() -> None:
    story = with_host(one_gpu((7, 700), (9, IDLE)), (0, 200), (7, 260), (9, 200))
    story.request("short", 7.0, 7.2, 9.0, tokens=20)
    story.request("long", 7.0, 7.2, 9.0, tokens=200)
    story.run(until=14)
    short, long = story.records["short"], story.records["long"]
    assert host_uj(short) + host_uj(long) == joules(520)
    assert host_uj(long) / host_uj(short) == pytest.approx(energy_uj(long) / energy_uj(short), rel=0.02)
    assert_host_balanced(story)


def test_the_hosts_energy_of_idle_time_stays_idle() -> None:
    story = with_host(one_gpu((7, 700), (8, IDLE)), (0, 250))
    story.request("one", 7.0, 7.1, 8.0, tokens=40)
    story.run(until=20)
    quiet = [entry for entry in books_of(story, HOST) if entry.t1_us <= us(7.0) or entry.t0_us >= us(8.0)]
    assert sum(entry.requests_uj + entry.unobserved_uj for entry in quiet) == 0
    assert sum(entry.idle_uj for entry in quiet) > 4_000_000_000
    assert host_uj(story.records["one"]) == joules(250)
    assert_host_balanced(story)


def test_a_gpu_at_work_for_others_makes_its_hosts_energy_unobserved_too() -> None:
    story = with_host(one_gpu((10, 700), (12, IDLE)), (0, 250))
    story.run(until=15)
    others = [entry for entry in books_of(story, HOST) if us(10.5) <= entry.t0_us < us(11.5)]
    assert others
    for entry in others:
        gpu = next(e for e in books_of(story, "GPU-a") if e.t0_us == entry.t0_us)
        assert entry.requests_uj == 0
        assert entry.unobserved_uj * (gpu.idle_uj + gpu.unobserved_uj) == pytest.approx(
            gpu.unobserved_uj * (entry.idle_uj + entry.unobserved_uj)
        )
    assert_host_balanced(story)


def test_a_lost_host_meter_leaves_its_intervals_unmeasured_and_the_records_say_so() -> None:
    story = with_host(one_gpu((7, 700), (27, IDLE)), (0, 200), hidden=((9, 20),))
    story.plan(9.0, MeterDown(t_us=us(9.0), gpu=HOST, code="READ_FAILED", message="gone"))
    story.request("within", 12.0, 12.1, 13.0, tokens=40)
    story.request("across", 7.0, 7.1, 25.0, tokens=400)
    story.run(until=40)
    within, across = story.records["within"], story.records["across"]
    assert energy_uj(within) > 0
    assert of_host(within) == (None, None, 1_000_000)
    assert host_uj(across) > 0
    assert across.host_unmeasured_us == pytest.approx(11_000_000, abs=2 * INTERVAL_US)
    lost = [entry for entry in books_of(story, HOST) if us(9.5) <= entry.t0_us < us(19.5)]
    assert sum(entry.covered_us for entry in lost) == 0
    assert_host_balanced(story)


def test_a_host_on_another_node_gets_only_what_the_gpus_there_gave() -> None:
    busy = Power((-10, IDLE), (7, 700), (8, IDLE))
    story = Story([Gpu("GPU-a", busy), Gpu("GPU-b", busy)], {"one": ["GPU-a"], "two": ["GPU-b"]})
    story.say(MeterUp(t_us=us(0), gpu="GPU-b", device="test", method="nvml-counter", node="there"))
    with_host(story, (0, 300), node="there", name="host:there", method="estimate")
    story.request("a", 7.0, 7.1, 8.0, tokens=40, backend="one")
    story.request("b", 7.0, 7.1, 8.0, tokens=40, backend="two")
    story.run(until=12)
    a, b = story.records["a"], story.records["b"]
    assert of_host(a) == (None, None, None)
    assert host_uj(b) == joules(300)
    assert b.host_method == "estimate"
    assert_host_balanced(story)


def test_a_request_on_two_nodes_of_which_one_has_no_host_meter_says_that_some_is_missing() -> None:
    busy = Power((-10, IDLE), (7, 700), (8, IDLE))
    story = Story([Gpu("GPU-a", busy), Gpu("GPU-b", busy)], {"main": ["GPU-a", "GPU-b"]})
    story.say(MeterUp(t_us=us(0), gpu="GPU-b", device="test", method="nvml-counter", node="there"))
    with_host(story, (0, 300))
    story.request("a", 7.0, 7.1, 8.0, tokens=40)
    story.run(until=12)
    record = story.records["a"]
    assert host_uj(record) == joules(300)
    assert record.host_unmeasured_us == 1_000_000
    assert_host_balanced(story)


def test_a_local_gpu_that_is_told_by_its_nodes_name_belongs_to_the_host_of_that_name() -> None:
    story = one_gpu((7, 700), (8, IDLE))
    story.say(MeterUp(t_us=us(0), gpu="GPU-a", device="test", method="zeusd-counter", node="here"))
    with_host(story, (0, 300))
    story.request("a", 7.0, 7.1, 8.0, tokens=40)
    story.run(until=12)
    assert host_uj(story.records["a"]) == joules(300)


def test_a_record_waits_for_its_hosts_interval_and_no_longer_than_for_a_gpu() -> None:
    story = with_host(one_gpu((7, 700), (8, IDLE)), (0, 300), hidden=((7.7, 9.5),))
    story.request("a", 7.0, 7.1, 8.0, tokens=40)
    story.run(until=9.3)
    assert "a" not in story.records
    story.run(until=10.5)
    assert host_uj(story.records["a"]) == joules(300)
    dead = with_host(one_gpu((7, 700), (8, IDLE)), (0, 300), hidden=((7.7, 99),))
    dead.request("a", 7.0, 7.1, 8.0, tokens=40)
    dead.run(until=14.5)
    assert host_uj(dead.records["a"]) > 0
    assert dead.records["a"].host_unmeasured_us == pytest.approx(400_000, abs=100_000)


def test_before_its_record_the_hosts_part_is_estimated_from_the_gpus() -> None:
    story = with_host(one_gpu((7, 700)), (0, 350))
    handle = story.request("a", 7.0, 7.1, 15.0, tokens=400)
    story.run(until=15.0)
    record = story.ledger.provisional(handle)
    assert record is not None
    assert record.state == "provisional"
    assert record.host_method == "rapl"
    assert host_uj(record) == pytest.approx(8 * 350e6, rel=0.1)


def test_a_request_that_moved_keeps_the_host_energy_of_its_failed_try() -> None:
    story = Story(
        [Gpu("GPU-a", Power((-10, IDLE), (7, 700), (9, IDLE)))], {"one": ["GPU-a"], "two": ["GPU-a"]}
    )
    with_host(story, (0, 300), hidden=((7.4, 8.5),))
    handle = story.request("a", 7.0, 8.1, 9.0, tokens=40, backend="one")
    story.plan(7.9, RequestMoved(t_us=us(7.9), handle=handle, backend="two"))
    story.run(until=7.89)
    assert story.ledger.state.hosts[HOST].waiting, "an interval of the first try is to wait for the host"
    story.run(until=14)
    record = story.records["a"]
    assert host_uj(record) == joules(600)
    assert record.host_unmeasured_us == 0
    assert_host_balanced(story)


def test_without_a_host_meter_nothing_is_known_and_nothing_waits() -> None:
    story = one_gpu((7, 700), (8, IDLE))
    story.request("a", 7.0, 7.1, 8.0, tokens=40)
    story.run(until=12)
    assert of_host(story.records["a"]) == (None, None, None)


def test_a_ledger_taken_up_in_between_goes_on_to_the_same_microjoule() -> None:
    def told() -> Story:
        story = with_host(one_gpu((7, 700), (9, IDLE)), (0, 200), hidden=((7.9, 8.9),))
        story.request("a", 7.0, 7.1, 8.6, tokens=40)
        story.request("b", 7.3, 7.4, 9.0, tokens=70)
        story.run(until=8.8)
        return story

    straight, again = told(), told()
    assert straight.ledger.state.hosts[HOST].waiting, "an interval is to wait for the host at this moment"
    again.ledger = Ledger(written_and_read(again.ledger.state))
    for story in (straight, again):
        story.run(until=14)
        assert_host_balanced(story)
    assert straight.outputs == again.outputs
    assert host_uj(again.records["a"]) > 0
    assert msgspec.json.encode(straight.ledger.state) == msgspec.json.encode(again.ledger.state)


def test_after_a_restart_the_host_that_comes_back_goes_on() -> None:
    story = with_host(one_gpu((7, 700), (30, IDLE)), (0, 200))
    story.request("lost", 7.0, 7.1, None, tokens=100)
    story.run(until=10)
    story.say(ServiceStarted(t_us=us(12), source=0, version="test"))
    story.ledger = Ledger(written_and_read(story.ledger.state))
    story._now_us = us(12.5)
    story.say(MeterUp(t_us=us(12.5), gpu="GPU-a", device="test", method="nvml-counter"))
    story.say(MeterUp(t_us=us(12.5), gpu=HOST, device="RAPL", method="rapl"))
    story.request("new", 14.0, 14.1, 15.0, tokens=40)
    story.run(until=30)
    assert story.records["lost"].status == "lost"
    assert host_uj(story.records["lost"]) == pytest.approx(3 * 200e6, rel=0.1)
    assert host_uj(story.records["new"]) == joules(200)
    assert_host_balanced(story)


def test_a_host_that_is_not_measured_after_a_restart_is_not_waited_for() -> None:
    story = with_host(one_gpu((7, 700), (30, IDLE)), (0, 200))
    story.run(until=8)
    story.gpus.pop()
    story.say(ServiceStarted(t_us=us(8), source=0, version="test"))
    story.request("a", 20.0, 20.1, 21.0, tokens=40)
    story.run(until=22.5)
    assert of_host(story.records["a"]) == (None, None, None)
    assert max(entry.t1_us for entry in books_of(story, HOST)) < us(15)


def test_another_name_for_the_same_host_takes_its_place() -> None:
    story = with_host(one_gpu((7, 700), (30, IDLE)), (0, 200))
    story.run(until=8)
    story.gpus.pop()
    with_host(story, (0, 200), name="host:new", at=9.0)
    story.request("a", 20.0, 20.1, 21.0, tokens=40)
    story.run(until=24)
    assert host_uj(story.records["a"]) == joules(200)
    assert_host_balanced(story)


def test_a_state_of_an_older_joulegate_that_had_the_host_among_its_gpus_is_taken_up() -> None:
    old = LedgerState(gpus={HOST: GpuState(gpu=HOST, settled_us=us(3), curve=Curve(), method="rapl")})
    ledger = Ledger(written_and_read(old))
    assert list(ledger.state.hosts) == [HOST]
    assert not ledger.state.gpus
    assert ledger.state.hosts[HOST].settled_us == us(3)
    assert ledger.hear(CounterReads(gpu=HOST, t_lo_us=[us(4)], t_hi_us=[us(4)], energy_mj=[5])) == []


def test_a_backend_cannot_have_a_host_among_its_gpus() -> None:
    story = with_host(one_gpu((7, 700), (8, IDLE), main=["GPU-a", HOST]), (0, 300))
    story.request("a", 7.0, 7.1, 8.0, tokens=40)
    story.run(until=12)
    record = story.records["a"]
    assert energy_uj(record) == joules(700)
    assert [share.gpu for share in record.shares] == ["GPU-a"]
    assert host_uj(record) == joules(300)
    assert_balanced(story.outputs)
