"""Whatever is told, in whatever order, the ledger does not raise and its books balance to the microjoule."""

from __future__ import annotations

from collections import Counter

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from accounting.events import (
    AnyEvent,
    BackendDeclared,
    CounterReads,
    EngineTimes,
    FirstToken,
    MeterDown,
    MeterMethod,
    MeterUp,
    RequestFinished,
    RequestStarted,
    ServiceEnded,
    ServiceStarted,
    Status,
    Tick,
    Usage,
)
from accounting.ledger import Ledger
from accounting.records import Output
from tests.accounting.ledger.story import (
    T0_US,
    assert_balanced,
    assert_sane,
    booked_uj,
    charged_uj,
    final_records,
    host_charged_uj,
    still_open,
    written_and_read,
)

GPUS = ("GPU-a", "GPU-b")
GHOST = "GPU-nobody-declared"
HOSTS = ("host:here", "host:there")
IDLERS = range(900, 1000)
"""Handles of requests that do nothing at all."""

YEAR_US = 365 * 24 * 3600 * 1_000_000
absurd_times = st.sampled_from([-(10**18), -1, 0, T0_US - YEAR_US, T0_US + 30 * YEAR_US, 10**18])
absurd_counts = st.sampled_from([-(10**20), -1, 0, 10**9, 10**12, 10**25])

statuses: st.SearchStrategy[Status] = st.sampled_from(
    ["ok", "client_error", "engine_error", "aborted", "lost", "rejected"]
)
methods: st.SearchStrategy[MeterMethod] = st.sampled_from(["nvml-counter", "nvml-power", "none"])
counts = st.none() | st.integers(0, 5_000) | absurd_counts
milliseconds = st.none() | st.floats(0, 5_000) | st.floats(allow_nan=True, allow_infinity=True)
backends = st.sampled_from(["main", "other", "undeclared", None])
handles = st.integers(0, 5) | st.sampled_from([1 << 40, (1 << 40) + 1, 77, -5])
gpus = st.sampled_from([*GPUS, *GPUS, GHOST])
devices = st.sampled_from([*GPUS, *GPUS, GHOST, *HOSTS])
nodes = st.sampled_from([None, None, None, "here", "there"])


@st.composite
def happenings(draw: st.DrawFn) -> list[AnyEvent]:
    """A clock that mostly runs forward, and events that mostly make sense, in no particular order."""
    now, energy = T0_US, dict.fromkeys((*GPUS, GHOST, *HOSTS), 1000000)
    events: list[AnyEvent] = []
    if draw(st.integers(0, 9)) < 9:
        events.append(BackendDeclared(t_us=now, backend="main", gpus=list(GPUS)))
        events.append(BackendDeclared(t_us=now, backend="other", gpus=["GPU-a"]))
        events += [MeterUp(t_us=now, gpu=g, device="d", method="nvml-counter") for g in GPUS]
        if draw(st.booleans()):
            events.append(MeterUp(t_us=now, gpu=HOSTS[0], device="d", method="estimate"))
    for i in range(draw(st.integers(1, 60))):
        now += draw(st.integers(0, 400_000))
        t_us = (
            draw(absurd_times) if draw(st.integers(0, 39)) == 39 else now + draw(st.integers(-300_000, 9_000))
        )
        match draw(st.sampled_from("ttttttrrrrrrssssffffeeeeebmdxyni")):
            case "t":
                counted = draw(st.lists(st.tuples(handles, st.integers(0, 60) | absurd_counts), max_size=6))
                events.append(
                    Tick(
                        t_us=t_us,
                        source=draw(st.sampled_from([0, 0, 0, 0, 1, -3])),
                        handles=[h for h, _ in counted],
                        tokens=[n for _, n in counted],
                    )
                )
            case "r":
                gpu = draw(devices)
                lo, hi, mj = [], [], []
                for _ in range(draw(st.integers(1, 8))):
                    at = t_us + draw(st.integers(-100_000, 400_000))
                    energy[gpu] += draw(st.integers(0, 60_000))
                    if draw(st.integers(0, 19)) == 19:
                        energy[gpu] = draw(st.sampled_from([0, -5, 2**32, 2**64, energy[gpu] // 2]))
                    lo.append(at)
                    hi.append(at + draw(st.integers(-10, 5_000)))
                    mj.append(energy[gpu])
                events.append(CounterReads(gpu=gpu, t_lo_us=lo, t_hi_us=hi, energy_mj=mj))
            case "s":
                events.append(started(t_us, draw(handles), draw(backends), draw(st.booleans()), i))
            case "f":
                events.append(FirstToken(t_us=t_us, handle=draw(handles)))
            case "e":
                usage = Usage(
                    prompt_tokens=draw(counts), cached_tokens=draw(counts), completion_tokens=draw(counts)
                )
                times = EngineTimes(
                    queue_ms=draw(milliseconds),
                    first_token_ms=draw(milliseconds),
                    generation_ms=draw(milliseconds),
                )
                events.append(
                    RequestFinished(
                        t_us=t_us,
                        handle=draw(handles),
                        status=draw(statuses),
                        usage=draw(st.none() | st.just(usage)),
                        times=draw(st.none() | st.just(times)),
                    )
                )
            case "b":
                chosen = draw(st.lists(devices, unique=True, max_size=3))
                events.append(BackendDeclared(t_us=t_us, backend=draw(backends) or "main", gpus=list(chosen)))
            case "m":
                method = draw(methods)
                lag = draw(st.sampled_from([0, 20_000, -20_000, 10**9]))
                gpu, node = draw(devices), draw(nodes)
                up = MeterUp(t_us=t_us, gpu=gpu, device="d", method=method, lag_us=lag, node=node)
                events.append(up)
            case "d":
                events.append(MeterDown(t_us=t_us, gpu=draw(devices), code="X", message="x"))
            case "x":
                events.append(ServiceStarted(t_us=t_us, source=draw(st.sampled_from([0, 1])), version="test"))
            case "y":
                events.append(ServiceEnded(t_us=t_us, source=draw(st.sampled_from([0, 1]))))
            case "n":
                again = [e for e in events if getattr(e, "handle", 0) not in IDLERS]
                if again:
                    told = draw(st.sampled_from(again))
                    if isinstance(told, RequestStarted):  # nobody gives the same uid to two requests
                        told = msgspec.structs.replace(told, uid=f"{told.handle}/{i}")
                    events.append(told)
            case "i":
                events.append(started(t_us, IDLERS[i], "main", True, i))
                events.append(RequestFinished(t_us=t_us, handle=IDLERS[i], status=draw(statuses)))
    return events


def started(t_us: int, handle: int, backend: str | None, streamed: bool, number: int) -> RequestStarted:
    return RequestStarted(
        t_us=t_us,
        handle=handle,
        uid=f"{handle}/{number}",
        request_id=f"{handle}/{number}",
        backend=backend,
        model="m",
        route="/v1/completions",
        streamed=streamed,
        body_bytes=number * 100,
    )


def hear_all(ledger: Ledger, events: list[AnyEvent]) -> list[Output]:
    return [output for event in events for output in ledger.hear(event)]


def closing(ledger: Ledger) -> list[AnyEvent]:
    """Events after which nothing can be open: every request ends, every source speaks of a later time."""
    state = ledger.state
    late = 2 * 10**18
    ends: list[AnyEvent] = [RequestFinished(t_us=late, handle=h, status="aborted") for h in state.open]
    return [*ends, *(Tick(t_us=late + YEAR_US, source=s) for s in {*state.watermarks, 0})]


def expected_records(events: list[AnyEvent]) -> Counter[str]:
    """The uid of every request that was opened: a start under a handle that nobody holds."""
    ledger, opened = Ledger(), Counter[str]()
    for event in events:
        fresh = isinstance(event, RequestStarted) and event.handle not in ledger.state.open
        ledger.hear(event)
        if fresh and isinstance(event, RequestStarted):
            opened[event.uid] += 1
    return opened


anything = settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


@anything
@given(happenings())
def test_books_balance_and_every_request_is_recorded_once_and_idlers_get_nothing(
    events: list[AnyEvent],
) -> None:
    ledger = Ledger()
    outputs = hear_all(ledger, events)
    assert_balanced(outputs)
    for handle in still_open(ledger):
        record = ledger.provisional(handle)
        assert record is not None
        assert_sane(record)
    outputs += [*hear_all(ledger, closing(ledger)), *ledger.close()]
    assert not ledger.state.open
    assert_balanced(outputs)
    for gpu in ledger.state.gpus:
        assert charged_uj(outputs, gpu) == booked_uj(outputs, gpu)
    assert host_charged_uj(outputs) == sum(booked_uj(outputs, host) for host in ledger.state.hosts)
    records = final_records(outputs)
    assert Counter(r.uid for r in records) == expected_records(events)
    for record in records:
        if int(record.uid.split("/")[0]) in IDLERS:
            assert not record.energy_uj
            assert not record.host_uj
            assert sum(s.prefill_uj + s.decode_uj for s in record.shares) == 0


@anything
@given(happenings(), st.data())
def test_a_ledger_taken_up_from_its_written_state_and_events_goes_on_the_same(
    events: list[AnyEvent], data: st.DataObject
) -> None:
    cut = data.draw(st.integers(0, len(events)))
    straight = Ledger()
    hear_all(straight, events[:cut])
    resumed = Ledger(written_and_read(straight.state))
    read_back = [msgspec.json.decode(msgspec.json.encode(e), type=AnyEvent) for e in events[cut:]]
    assert hear_all(resumed, read_back) == hear_all(straight, events[cut:])
    assert hear_all(resumed, closing(resumed)) == hear_all(straight, closing(straight))
    assert msgspec.json.encode(resumed.state) == msgspec.json.encode(straight.state)
