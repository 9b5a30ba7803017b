"""Tells a ledger what happened, on GPUs whose true power is known, as the service would tell it.

Times in a story are seconds since T0_US. Every TICK_US the counter reads come, then the tick; a request's
events come at their own times, `finished` after a tick of its own.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import msgspec
import pytest

from accounting.events import (
    AnyEvent,
    BackendDeclared,
    CounterReads,
    EngineTimes,
    FirstToken,
    MeterUp,
    RequestFinished,
    RequestStarted,
    ServiceStarted,
    Status,
    Tick,
    Usage,
)
from accounting.ledger import Ledger
from accounting.ledger.state import LedgerState
from accounting.records import BookEntry, Correction, Output, RequestRecord, corrected

T0_US = 1_790_000_000_000_000
"""Second 0 of a story: a time of 2026, where an interval begins."""

TICK_US = 50_000
COUNTER_US = 100_000
"""The counter's update period."""


def us(seconds: float) -> int:
    return T0_US + round(seconds * 1e6)


class Power:
    """A GPU's true power: `steps` are (second it begins, watts); before the first it draws nothing."""

    def __init__(self, *steps: tuple[float, int]) -> None:
        self._from_us = [us(second) for second, _ in steps]
        self._watts = [watts for _, watts in steps]

    def energy_uj(self, t0_us: int, t1_us: int) -> int:
        """Energy drawn in [t0_us, t1_us): watts times microseconds are microjoules."""
        return self._until(t1_us) - self._until(t0_us)

    def _until(self, t_us: int) -> int:
        ends = [*self._from_us[1:], t_us]
        n = bisect_right(self._from_us, t_us)
        return sum(
            watts * (min(end, t_us) - begin)
            for begin, end, watts in zip(self._from_us[:n], ends, self._watts, strict=False)
        )


@dataclass
class Gpu:
    """A GPU and its counter, read just before and just after each update, so that its edges are exact."""

    name: str
    power: Power
    hidden: Sequence[tuple[float, float]] = ()
    """Stretches, in seconds, in which it cannot be read."""
    resets: Sequence[float] = ()
    """Seconds at which the counter begins anew at 0, as when the driver is reloaded."""
    metered: bool = True
    phase_us: int = 0
    """When the counter updates, after each tenth of a second."""

    def reads(self, t0_us: int, t1_us: int) -> CounterReads | None:
        """The reads around the counter's updates in [t0_us, t1_us)."""
        times, values = [], []
        first = -(-(t0_us - self.phase_us) // COUNTER_US) * COUNTER_US + self.phase_us
        for update_us in range(first, t1_us, COUNTER_US):
            if any(us(a) <= update_us < us(b) for a, b in self.hidden):
                continue
            times += [update_us - 1, update_us + 1]
            values += [self._shown_mj(update_us - COUNTER_US), self._shown_mj(update_us)]
        return CounterReads(gpu=self.name, t_lo_us=times, t_hi_us=times, energy_mj=values) if times else None

    def _shown_mj(self, update_us: int) -> int:
        since = max((us(r) for r in self.resets if us(r) <= update_us), default=us(-1000))
        return self.power.energy_uj(since, update_us) // 1000


@dataclass
class Story:
    """What happens, told by `run`; what came out is in `records` (by request id) and `books`."""

    gpus: list[Gpu]
    backends: dict[str, list[str]]
    ledger: Ledger = field(default_factory=Ledger)
    events: list[AnyEvent] = field(default_factory=list)
    """Everything told so far."""
    outputs: list[Output] = field(default_factory=list)
    source: int = 0
    _plan: list[tuple[int, int, AnyEvent | None]] = field(default_factory=list)
    _tokens_us: dict[int, list[int]] = field(default_factory=dict)
    _now_us: int = T0_US
    _handles: int = 0

    def __post_init__(self) -> None:
        self.say(ServiceStarted(t_us=T0_US, source=self.source, version="test"))
        for backend, gpus in self.backends.items():
            self.say(BackendDeclared(t_us=T0_US, backend=backend, gpus=gpus))
        for gpu in self.gpus:
            if gpu.metered:
                self.say(
                    MeterUp(t_us=T0_US, gpu=gpu.name, device="test", method="nvml-counter", simulated=True)
                )

    @property
    def records(self) -> dict[str, RequestRecord]:
        """By request id, with what was corrected up to now."""
        return {record.request_id: record for record in final_records(self.outputs)}

    @property
    def books(self) -> list[BookEntry]:
        return [o for o in self.outputs if isinstance(o, BookEntry)]

    def say(self, event: AnyEvent) -> list[Output]:
        self.events.append(event)
        out = self.ledger.hear(event)
        self.outputs += out
        return out

    def request(
        self,
        name: str,
        start: float,
        first: float | None,
        end: float | None,
        *,
        prompt: int = 100,
        tokens: int = 0,
        backend: str | None = "main",
        status: Status = "ok",
        streamed: bool = True,
        times: EngineTimes | None = None,
        usage: bool = True,
        sequences: int = 1,
    ) -> int:
        """Plan a request; streamed `tokens` arrive evenly over [first, end]. It stays open if end is None."""
        handle = (self.source << 40) + self._handles
        self._handles += 1
        self._at(
            us(start),
            RequestStarted(
                t_us=us(start),
                handle=handle,
                uid=f"uid-{handle}",
                request_id=name,
                backend=backend,
                model="m",
                route="/v1/completions",
                streamed=streamed,
                body_bytes=prompt * 5,
                sequences=sequences,
            ),
        )
        if streamed and first is not None:
            self._at(us(first), FirstToken(t_us=us(first), handle=handle))
            last = end if end is not None else first + 0.02 * tokens
            step = (us(last) - us(first)) / max(tokens - 1, 1)
            self._tokens_us[handle] = [us(first) + int(step * i) for i in range(tokens)]
        if end is not None:
            told = Usage(prompt_tokens=prompt, completion_tokens=tokens) if usage else None
            self._at(us(end), None)
            self._at(
                us(end),
                RequestFinished(t_us=us(end), handle=handle, status=status, usage=told, times=times),
            )
        return handle

    def tokens(self, handle: int, begin: float, end: float, count: int) -> None:
        """Plan `count` more tokens of a request, evenly over [begin, end]."""
        step = (us(end) - us(begin)) / max(count - 1, 1)
        told = self._tokens_us.setdefault(handle, [])
        self._tokens_us[handle] = sorted([*told, *(us(begin) + int(step * i) for i in range(count))])

    def plan(self, second: float, event: AnyEvent) -> None:
        """Tell an event at this second."""
        self._at(us(second), event)

    def _at(self, t_us: int, event: AnyEvent | None) -> None:
        self._plan.append((t_us, len(self._plan), event))  # None: a tick

    def run(self, until: float, each: Callable[[], None] | None = None) -> None:
        """Tell everything up to second `until`; `each` is called after every tick."""
        ticks = range(self._now_us // TICK_US * TICK_US + TICK_US, us(until) + 1, TICK_US)
        todo = sorted(
            [p for p in self._plan if p[0] <= us(until)] + [(t, 1 << 60, None) for t in ticks],
            key=lambda p: p[:2],
        )
        self._plan = [p for p in self._plan if p[0] > us(until)]
        for t_us, _, event in todo:
            if event is not None:
                self.say(event)
                continue
            for gpu in self.gpus:
                if gpu.metered and (reads := gpu.reads(self._now_us, t_us)) is not None:
                    self.say(reads)
            self._now_us = t_us
            self.say(self._tick(t_us))
            if each is not None:
                each()

    def _tick(self, t_us: int) -> Tick:
        counts: dict[int, int] = {}
        for handle, times in self._tokens_us.items():
            come = bisect_right(times, t_us)
            if come:
                counts[handle] = come
                del times[:come]
        return Tick(t_us=t_us, source=self.source, handles=list(counts), tokens=list(counts.values()))


def assert_balanced(outputs: Sequence[Output]) -> None:
    """Every entry's parts are not negative and sum to what was measured; no record has an absurd figure."""
    for output in outputs:
        if isinstance(output, BookEntry):
            parts = (output.requests_uj, output.idle_uj, output.unobserved_uj, output.unmeasured_uj)
            assert min(parts) >= 0, output
            assert sum(parts) == (output.measured_uj or 0), output
            assert output.measured_uj is None or output.measured_uj >= 0, output
            assert output.t1_us > output.t0_us, output
            assert 0 <= output.covered_us <= output.t1_us - output.t0_us, output
            assert output.requests >= 0, output
        elif isinstance(output, RequestRecord):
            assert_sane(output)
    for record in final_records(outputs):
        assert_sane(record)


def final_records(outputs: Sequence[Output]) -> list[RequestRecord]:
    """The records, each with its correction, in the order in which the requests were concluded."""
    records: dict[str, RequestRecord] = {}
    done: set[str] = set()
    for output in outputs:
        if isinstance(output, RequestRecord):
            assert output.uid not in records, "a request was concluded twice"
            records[output.uid] = output
        elif isinstance(output, Correction):
            assert output.uid not in done, "a request was corrected twice"
            done.add(output.uid)
            records[output.uid] = corrected(records[output.uid], output)
    return list(records.values())


def still_open(ledger: Ledger) -> set[int]:
    """Handles of the requests that have no record yet."""
    return {handle for handle, request in ledger.state.open.items() if request.told.recorded is None}


def assert_sane(record: RequestRecord) -> None:
    """The record agrees with itself: energy is the sum of its shares, nothing is negative."""
    assert record.unmeasured_us >= 0, record
    assert record.started_us <= record.finished_us, record
    assert record.host_uj is None or record.host_uj >= 0, record
    assert (record.host_uj is None) == (record.host_method is None), record
    assert record.host_uj is None or record.host_unmeasured_us is not None, record
    assert record.host_unmeasured_us is None or record.host_unmeasured_us >= 0, record
    assert all(s.prefill_uj >= 0 and s.decode_uj >= 0 for s in record.shares), record
    if record.energy_uj is None:
        assert record.prefill_uj is record.decode_uj is record.uncertainty_uj is None, record
        assert sum(s.prefill_uj + s.decode_uj for s in record.shares) == 0, record
        return
    assert record.prefill_uj is not None, record
    assert record.decode_uj is not None, record
    assert record.uncertainty_uj is not None, record
    assert record.uncertainty_uj >= 0, record
    assert record.energy_uj == record.prefill_uj + record.decode_uj, record
    assert record.energy_uj >= 0, record
    if record.state == "final":
        assert record.prefill_uj == sum(s.prefill_uj for s in record.shares), record
        assert record.decode_uj == sum(s.decode_uj for s in record.shares), record


def charged_uj(outputs: Sequence[Output], gpu: str) -> int:
    """What final records were charged on one GPU."""
    return sum(s.prefill_uj + s.decode_uj for r in final_records(outputs) for s in r.shares if s.gpu == gpu)


def booked_uj(outputs: Sequence[Output], gpu: str) -> int:
    """What the books of one GPU gave to requests."""
    return sum(o.requests_uj for o in outputs if isinstance(o, BookEntry) and o.gpu == gpu)


def host_charged_uj(outputs: Sequence[Output]) -> int:
    """What final records were charged on all hosts."""
    return sum(record.host_uj or 0 for record in final_records(outputs))


def written_and_read(state: LedgerState) -> LedgerState:
    """The state as a restart would find it."""
    return msgspec.json.decode(msgspec.json.encode(state), type=LedgerState)


IDLE = 100
"""Watts at idle. Stories keep quiet for the first 6 s, so that idle power is learnt."""

GRAIN_UJ = 40_000
"""Allowed for the counter's millijoules, the microsecond between reads, and rounding."""


def joules(value: float) -> object:
    """Equal to so many joules, of microjoules compared with it."""
    return pytest.approx(value * 1e6, abs=GRAIN_UJ)


def one_gpu(*busy: tuple[float, int], **backends: list[str]) -> Story:
    """A GPU at idle but for the `busy` steps (second, watts), and backends on it."""
    return Story([Gpu("GPU-a", Power((-10, IDLE), *busy))], backends or {"main": ["GPU-a"]})


def energy_uj(record: RequestRecord) -> int:
    assert record.energy_uj is not None
    return record.energy_uj


def assert_all_charged(story: Story) -> None:
    """Nothing is open, every microjoule that the books gave to requests is on a record."""
    assert not still_open(story.ledger)
    story.outputs += story.ledger.close()
    assert_balanced(story.outputs)
    for gpu in story.ledger.state.gpus:
        assert charged_uj(story.outputs, gpu) == booked_uj(story.outputs, gpu)
