"""Streams in flight, said to a ledger as the live service says them, and what hearing them costs.

Each request gets TOKENS_PER_S tokens a second, lives for `life_s`, and is replaced when it ends; before an
end a tick is said and after it the provisional record is asked for, as the service does. Costs are CPU time.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from time import process_time

from accounting.events import (
    AnyEvent,
    BackendDeclared,
    CounterReads,
    FirstToken,
    MeterUp,
    RequestFinished,
    RequestStarted,
    ServiceStarted,
    Tick,
    Usage,
)
from accounting.ledger import Ledger
from accounting.records import BookEntry, Output

T0_US = 1_790_000_000_000_000
TICK_US = 50_000
TOKENS_PER_S = 10
EVERY = 1_000_000 // (TICK_US * TOKENS_PER_S)
"""Ticks between two tokens of one request."""

PROMPT_TOKENS = 500
POWER_W = 500
GPU, BACKEND = "GPU-0", "engine"


@dataclass(slots=True)
class Costs:
    """CPU seconds: of each tick that settled nothing, of each that settled, of all starts and ends."""

    virtual_s: float = 0.0
    plain_s: list[float] = field(default_factory=list)
    settling_s: list[float] = field(default_factory=list)
    churn_s: float = 0.0
    reads_s: float = 0.0
    ended: int = 0
    """Requests that ended, each replaced by a new one."""
    records: int = 0

    @property
    def ticks_load(self) -> float:
        """Share of one core that ticks (settling included) and reads take. Above 1 it falls behind."""
        return (sum(self.plain_s) + sum(self.settling_s) + self.reads_s) / self.virtual_s

    @property
    def churn_load(self) -> float:
        return self.churn_s / self.virtual_s


class Streams:
    def __init__(self, in_flight: int, life_s: float) -> None:
        self.ledger = Ledger()
        self.in_flight = in_flight
        self._ends_per_tick = in_flight * TICK_US / (life_s * 1e6)
        self._tokens = round(life_s * TOKENS_PER_S)
        self._due = 0.0
        self._next_end = 0
        self._tick = 0
        self._handles: list[int] = []
        self._last_handle = 0
        hello: list[AnyEvent] = [
            ServiceStarted(t_us=T0_US, source=0, version="benchmark"),
            BackendDeclared(t_us=T0_US, backend=BACKEND, gpus=[GPU]),
            MeterUp(t_us=T0_US, gpu=GPU, device="NVIDIA H100", method="nvml-counter", simulated=True),
        ]
        self._hear(hello)
        for _ in range(in_flight):
            self._handles.append(self._begin(T0_US))

    def run(self, virtual_s: float) -> Costs:
        """Go on for `virtual_s` of virtual time."""
        costs = Costs(virtual_s=virtual_s)
        for _ in range(round(virtual_s * 1e6 / TICK_US)):
            self._tick += 1
            now_us = T0_US + self._tick * TICK_US
            if self._tick % 2:
                costs.reads_s += self._hear([self._reads(now_us)])[0]
            handles = self._handles[self._tick % EVERY :: EVERY]
            tick = Tick(t_us=now_us, source=0, handles=handles, tokens=[1] * len(handles))
            self._account(self._hear([tick]), costs)
            self._due += self._ends_per_tick
            while self._due >= 1:
                self._due -= 1
                self._replace(now_us, costs)
        return costs

    def _hear(self, events: Iterable[AnyEvent]) -> tuple[float, list[Output]]:
        """CPU seconds that hearing took, and what came of it."""
        out: list[Output] = []
        began = process_time()
        for event in events:
            out += self.ledger.hear(event)
        return process_time() - began, out

    def _account(self, heard: tuple[float, list[Output]], costs: Costs) -> None:
        took_s, out = heard
        books = sum(isinstance(output, BookEntry) for output in out)
        costs.records += len(out) - books
        (costs.settling_s if books else costs.plain_s).append(took_s)

    def _replace(self, now_us: int, costs: Costs) -> None:
        """End the oldest request and begin another."""
        place = self._next_end
        self._next_end = (place + 1) % self.in_flight
        handle = self._handles[place]
        usage = Usage(prompt_tokens=PROMPT_TOKENS, cached_tokens=0, completion_tokens=self._tokens)
        end = RequestFinished(t_us=now_us, handle=handle, status="ok", http_status=200, usage=usage)
        began = process_time()
        self._hear([Tick(t_us=now_us, source=0), end])
        self.ledger.provisional(handle)
        self._handles[place] = self._begin(now_us)
        costs.churn_s += process_time() - began
        costs.ended += 1

    def _begin(self, now_us: int) -> int:
        self._last_handle += 1
        handle = self._last_handle
        started = RequestStarted(
            t_us=now_us - 40_000,
            handle=handle,
            uid=str(handle),
            request_id=str(handle),
            backend=BACKEND,
            model="m",
            route="/v1/chat/completions",
            streamed=True,
            body_bytes=2_000,
        )
        self._hear([started, FirstToken(t_us=now_us - 5_000, handle=handle)])
        return handle

    def _reads(self, now_us: int) -> CounterReads:
        """Two reads with an edge of the counter between them."""
        energy_mj = (now_us - T0_US) * POWER_W // 1_000
        times = [now_us - 20_000, now_us - 10_000]
        step_mj = 2 * TICK_US * POWER_W // 1_000
        return CounterReads(gpu=GPU, t_lo_us=times, t_hi_us=times, energy_mj=[energy_mj - step_mj, energy_mj])
