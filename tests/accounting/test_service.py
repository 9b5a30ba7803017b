"""The accountant: what it writes down, in which order, and what it takes up again after a crash."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from accounting.clock import Clock
from accounting.events import AnyEvent, BackendDeclared, CounterReads, MeterDown, MeterUp, Usage
from accounting.journal import Journal, Segment, segment_paths
from accounting.records import Correction, Output, RequestRecord, corrected
from accounting.replay import replay
from accounting.service import RECENT, Accountant
from tests.accounting.ledger.story import Gpu, Power, assert_balanced, booked_uj, charged_uj, us

TICK_US = 50_000


class HandClock(Clock):
    """A clock that goes on when told to."""

    t_us: int

    def __init__(self, second: float = 0.0) -> None:
        super().__init__(0)
        self.set(second)

    def set(self, second: float) -> None:
        object.__setattr__(self, "t_us", us(second))

    def add_us(self, more_us: int) -> None:
        object.__setattr__(self, "t_us", self.t_us + more_us)

    def now_us(self) -> int:
        return self.t_us


class ListMeter:
    """A meter fed from a list."""

    def __init__(self) -> None:
        self.todo: list[MeterUp | MeterDown | CounterReads] = []
        self.busy: list[bool] = []
        """Every change of set_busy."""

    def start(self) -> None:
        """Nothing to start."""

    def close(self) -> None:
        """Nothing to close."""

    def set_busy(self, busy: bool) -> None:
        if self.busy[-1:] != [busy]:
            self.busy.append(busy)

    def drain(self) -> Sequence[MeterUp | MeterDown | CounterReads]:
        todo, self.todo = self.todo, []
        return todo


class ListSink:
    """Keeps what it is given, and finds at once each output in the journal on the disk."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.outputs: list[Output] = []
        self.segments: list[int] = []
        self.stored: int | None = None
        self.look_at_disk = True

    def put(self, outputs: Sequence[Output], segment: int) -> None:
        if self.look_at_disk:
            on_disk = list(replay(self._directory))
            assert all(output in on_disk for output in outputs), "the store would know more than the journal"
        self.outputs += outputs
        self.segments.append(segment)

    def progress(self) -> int | None:
        return self.stored

    @property
    def stored_segment(self) -> int | None:
        return self.stored

    @property
    def records(self) -> list[RequestRecord]:
        return [o for o in self.outputs if isinstance(o, RequestRecord)]


class Service:
    """An accountant with its journal; a GPU at 100 W, 600 W from second 1 on; a hand on the clock."""

    def __init__(self, directory: Path, second: float = 0.0, segment_bytes: int = 1 << 26) -> None:
        self.directory = directory
        self.clock, self.meter, self.sink = HandClock(second), ListMeter(), ListSink(directory)
        self.gpu = Gpu("GPU-a", Power((-10, 100), (1, 600)))
        self.journal = Journal(directory, segment_bytes=segment_bytes)
        self.accountant = Accountant(
            self.clock, self.journal, self.sink, self.meter, version="test", keep_segments=2
        )

    def up(self) -> Service:
        self.accountant.recover()
        now = self.clock.now_us()
        self.accountant.declare(BackendDeclared(t_us=now, backend="main", gpus=["GPU-a"]))
        self.meter.todo.append(MeterUp(t_us=now, gpu="GPU-a", device="d", method="nvml-counter"))
        return self

    def start(
        self, name: str, *, backend: str | None = "main", streamed: bool = True, sequences: int = 1
    ) -> int:
        return self.accountant.start(
            name,
            route="/v1/completions",
            backend=backend,
            model="m",
            tenant="t",
            streamed=streamed,
            body_bytes=500,
            sequences=sequences,
        )

    def go_on(self, until: float, *answering: int) -> None:
        """Tick up to second `until`; the requests `answering` get a token each tick."""
        while self.clock.t_us < us(until):
            before = self.clock.t_us
            self.clock.add_us(TICK_US)
            reads = self.gpu.reads(before, self.clock.t_us)
            if reads is not None:
                self.meter.todo.append(reads)
            for handle in answering:
                self.accountant.tokens(handle, 1)
            self.accountant.tick()

    def served(self, name: str, begin: float, end: float) -> RequestRecord:
        """One streamed request from `begin` to `end`; what it was said to cost at its end."""
        self.go_on(begin)
        handle = self.start(name)
        self.go_on(begin + 0.1)
        self.accountant.first(handle)
        self.go_on(end, handle)
        record = self.accountant.finish(
            handle, "ok", 200, usage=Usage(prompt_tokens=100, completion_tokens=20)
        )
        assert record is not None
        return record

    def crash(self) -> None:
        """Let go of the journal as the kernel does when a process dies: without a last tick."""
        self.journal.close()


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    service = Service(tmp_path / "journal").up()
    yield service
    service.crash()


def events_in(directory: Path) -> list[AnyEvent]:
    return [event for path in segment_paths(directory) for event in Segment(path).events()]


def test_a_request_comes_out_settled_and_its_journal_replays_to_the_same(service: Service) -> None:
    service.served("r", 1.0, 2.0)
    service.go_on(4.0)
    (record,) = service.sink.records
    assert record.request_id == "r"
    assert record.energy_uj == pytest.approx(600e6, rel=0.02)
    assert (record.tenant, record.model, record.http_status, record.state) == ("t", "m", 200, "final")
    assert list(replay(service.directory)) == service.sink.outputs
    assert_balanced(service.sink.outputs)


def test_the_end_of_a_request_is_on_the_disk_when_finish_returns(service: Service) -> None:
    provisional = service.served("r", 1.0, 2.0)
    assert provisional.state == "provisional"
    assert provisional.completion_tokens == 20
    assert [type(e).__name__ for e in events_in(service.directory)][-2:] == ["Tick", "RequestFinished"]


def test_a_request_can_be_found_in_flight_at_its_end_and_settled(service: Service) -> None:
    service.go_on(1.0)
    assert service.accountant.find("r") is None
    handle = service.start("r")
    service.go_on(2.0, handle)
    flying = service.accountant.find("r")
    assert flying is not None
    assert (flying.state, flying.request_id) == ("provisional", "r")
    assert (service.accountant.in_flight, service.accountant.settled) == (1, False)
    service.accountant.finish(handle, "ok", 200)
    ended = service.accountant.find("r")
    assert ended is not None
    assert ended.state == "provisional"
    service.go_on(4.0)
    assert service.accountant.find("r") == service.sink.records[0]
    assert (service.accountant.in_flight, service.accountant.settled) == (0, True)


def test_what_is_found_has_its_correction_as_soon_as_that_comes(service: Service) -> None:
    service.go_on(1.0)
    unseen = service.start("unseen", streamed=False, sequences=8)
    service.served("seen", 1.2, 2.0)
    service.served("twice", 2.0, 2.5)
    service.go_on(4.0)
    was, first = service.accountant.find("seen"), service.accountant.find("twice")
    assert was is not None
    assert first is not None
    assert (was.state, was.corrected_us) == ("final", None)
    again = service.start("twice", streamed=False, backend=None)
    service.accountant.finish(again, "rejected", 400)
    usage = Usage(prompt_tokens=100, completion_tokens=8 * 3_000)
    service.go_on(6.0)
    service.accountant.finish(unseen, "ok", 200, usage=usage)
    service.go_on(9.0)
    late = {output.uid: output for output in service.sink.outputs if isinstance(output, Correction)}
    assert {was.uid, first.uid} <= set(late)
    assert service.accountant.find("seen") == corrected(was, late[was.uid])
    twice = service.accountant.find("twice")  # the newer request of this id, which nothing corrected
    assert twice is not None
    assert (twice.status, twice.corrected_us) == ("rejected", None)


def test_a_request_in_flight_is_found_though_another_of_the_same_id_has_settled(service: Service) -> None:
    service.go_on(1.0)
    first, second = service.start("same"), service.start("same")
    service.go_on(1.5, first, second)
    service.accountant.finish(first, "ok", 200)
    service.go_on(4.0, second)
    assert len(service.sink.records) == 1
    found = service.accountant.find("same")
    assert found is not None
    assert (found.uid == service.sink.records[0].uid, found.state) == (False, "provisional")
    service.accountant.finish(second, "ok", 200)
    service.go_on(7.0)
    settled = service.accountant.find("same")
    assert settled is not None
    assert settled.state == "final"


def test_only_the_latest_settled_requests_are_kept_in_memory(service: Service) -> None:
    service.sink.look_at_disk = False  # two thousand replays would take long
    for i in range(RECENT + 5):
        handle = service.start(f"r{i}", backend=None)
        service.accountant.finish(handle, "ok", 200)
    assert len(service.sink.records) == RECENT + 5
    assert service.accountant.find("r4") is None
    assert service.accountant.find("r5") == service.sink.records[5]


def test_the_meter_is_busy_while_anything_is_in_flight_or_not_settled(service: Service) -> None:
    service.go_on(1.0)
    assert service.meter.busy == [False]
    first, second = service.start("a"), service.start("b")
    assert service.meter.busy == [False, True]
    service.go_on(1.5)
    service.accountant.finish(first, "ok", 200)
    service.go_on(2.0)
    service.accountant.finish(second, "aborted", None)
    service.go_on(2.1)
    assert service.meter.busy == [False, True]  # not settled yet
    service.go_on(4.0)
    assert service.meter.busy == [False, True, False]


def test_tokens_are_told_once_per_tick_and_counted_whole(service: Service) -> None:
    service.go_on(1.0)
    handle = service.start("r")
    told_before = len(events_in(service.directory))
    for _ in range(1000):
        service.accountant.tokens(handle, 2)
    service.go_on(1.05)
    assert len(events_in(service.directory)) - told_before <= 3
    assert service.accountant.ledger.state.open[handle].numbers["seen"] == 2000


def test_a_crash_loses_no_settled_record_and_closes_open_requests_as_lost(tmp_path: Path) -> None:
    before = Service(tmp_path).up()
    before.served("whole", 1.0, 2.0)
    before.go_on(3.0)
    open_handle = before.start("open")
    before.go_on(4.0, open_handle)
    before.crash()
    after = Service(tmp_path, second=6.0).up()
    assert after.sink.outputs == before.sink.outputs
    handle = after.start("next")
    assert handle > open_handle
    after.accountant.finish(handle, "ok", 200)
    after.go_on(14.0)
    records = {r.request_id: r for r in after.sink.records}
    assert {name: r.status for name, r in records.items()} == {"whole": "ok", "open": "lost", "next": "ok"}
    assert records["open"].finished_us == us(4.0)
    assert len(after.sink.records) == 3
    assert charged_uj(after.sink.outputs, "GPU-a") == booked_uj(after.sink.outputs, "GPU-a")
    found = after.accountant.find("open")
    assert found == records["open"]
    assert list(replay(tmp_path)) == after.sink.outputs
    after.crash()


def test_a_crash_right_after_the_end_of_a_request_gives_it_its_record(tmp_path: Path) -> None:
    before = Service(tmp_path).up()
    before.served("r", 1.0, 2.0)
    before.crash()
    assert before.sink.records == []
    after = Service(tmp_path, second=2.5).up()
    after.go_on(10.0)
    (record,) = after.sink.records
    assert (record.request_id, record.status, record.completion_tokens) == ("r", "ok", 20)
    after.crash()


def test_a_clean_stop_leaves_its_last_tick_in_the_journal(tmp_path: Path) -> None:
    service = Service(tmp_path).up()
    handle = service.start("r")
    service.accountant.tokens(handle, 7)
    service.clock.add_us(10_000)
    service.accountant.close()
    last = events_in(tmp_path)[-1]
    assert getattr(last, "tokens", None) == [7]
    Journal(tmp_path).close()


def test_the_journal_is_kept_in_size_and_never_beyond_what_is_stored(tmp_path: Path) -> None:
    service = Service(tmp_path, segment_bytes=8_000).up()
    service.served("a", 1.0, 8.0)
    service.go_on(12.0)
    assert service.journal.segment > 4
    assert len(segment_paths(tmp_path)) == service.journal.segment  # nothing is stored yet
    outputs = list(replay(tmp_path))
    assert outputs == service.sink.outputs
    assert service.sink.segments == sorted(service.sink.segments)
    assert service.sink.segments[-1] > service.sink.segments[0]
    service.sink.stored = 3
    service.served("b", 13.0, 18.0)
    assert int(segment_paths(tmp_path)[0].stem) == 3
    service.sink.stored = service.journal.segment
    service.served("c", 19.0, 24.0)
    assert int(segment_paths(tmp_path)[0].stem) >= service.journal.segment - 3
    service.crash()


def test_a_restart_replays_only_what_the_store_may_lack(tmp_path: Path) -> None:
    before = Service(tmp_path, segment_bytes=8_000).up()
    before.served("a", 1.0, 8.0)
    before.go_on(12.0)
    before.crash()
    after = Service(tmp_path, second=12.0)
    after.sink.stored = 3
    made = after.accountant.recover()
    assert 0 < made < len(before.sink.outputs)
    assert after.sink.outputs == before.sink.outputs[-made:]
    assert after.accountant.ledger.state.gpus == before.accountant.ledger.state.gpus
    after.crash()


def test_on_a_full_disk_nothing_reaches_the_store_until_the_journal_has_it(small_disk: Path) -> None:
    filler = small_disk / "filler"
    service = Service(small_disk / "journal").up()
    service.served("r", 1.0, 2.0)
    with pytest.raises(OSError, match="No space"):
        filler.write_bytes(bytes(1 << 20))
    while not service.journal.pending_bytes and service.clock.t_us < us(4.0):
        service.go_on((service.clock.t_us - us(0) + TICK_US) / 1e6)  # what is left of its last page
    given = len(service.sink.outputs)
    service.go_on(6.0)
    why = service.journal.failure
    assert why == "No space left on device"
    assert len(service.sink.outputs) == given
    assert service.accountant.find("r") is not None
    filler.unlink()
    service.go_on(6.1)
    assert service.journal.failure is None
    (record,) = service.sink.records
    assert record.request_id == "r"
    assert list(replay(service.directory)) == service.sink.outputs
    service.crash()


def test_a_clock_set_back_between_two_runs_goes_on_from_the_journal(tmp_path: Path) -> None:
    ahead = Clock(Clock.anchored_now().offset_us + 3_600_000_000)
    first = Accountant(ahead, Journal(tmp_path), ListSink(tmp_path), version="test")
    first.recover()
    first.tick()
    first.close()
    reached_us = first.ledger.watermarks_us[0]
    sink = ListSink(tmp_path)
    second = Accountant(Clock.anchored_now(), Journal(tmp_path), sink, version="test")
    second.recover()
    assert second.clock.now_us() > reached_us
    handle = second.start(
        "r", route="/v1/completions", backend=None, model=None, tenant=None, streamed=False, body_bytes=1
    )
    second.finish(handle, "rejected", 413)
    second.close()
    assert [record.request_id for record in sink.records] == ["r"]
