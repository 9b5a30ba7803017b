"""Every fault at once, each on a GPU of its own, through the meter into the ledger: what the books say."""

from __future__ import annotations

from collections.abc import Callable

from accounting.clock import Clock
from accounting.events import (
    AnyEvent,
    BackendDeclared,
    MeterDown,
    MeterUp,
    RequestFinished,
    RequestStarted,
    Tick,
)
from accounting.ledger import Ledger
from accounting.ledger.curve import MAX_GAP_US
from accounting.meters.meter import NvmlMeter
from accounting.records import BookEntry, Output, RequestRecord
from simulator.gpu.board import Board
from tests.accounting.meters.watching import wait_until
from tests.simulator.gpu.machine import Machines

ENERGY = "nvmlDeviceGetTotalEnergyConsumption"
HEALTHY = 0

CAUSE: list[tuple[str | None, Callable[[Board, int], None]]] = [
    (None, lambda board, gpu: None),
    ("GPU_IS_LOST", lambda board, gpu: board.fault(gpu, "*", code=15)),
    ("UNKNOWN", lambda board, gpu: board.fault(gpu, "*", code=999)),
    ("NO_PERMISSION", lambda board, gpu: board.fault(gpu, "*", code=4)),
    ("COUNTER_RESET", lambda board, gpu: board.jump(gpu, -1_000)),
    ("COUNTER_JUMPED", lambda board, gpu: board.jump(gpu, 50_000)),
    ("COUNTER_FROZEN", lambda board, gpu: board.freeze(gpu, True)),
    ("STALE", lambda board, gpu: board.fault(gpu, ENERGY, code=0, delay_us=3_600_000_000)),
]
"""By GPU: the code that is told, and what is done to the GPU."""


class Books:
    """One request on each GPU, from before the faults until after the last has been healed."""

    def __init__(self, meter: NvmlMeter, clock: Clock, gpus: list[str]) -> None:
        self.meter, self.clock, self.ledger = meter, clock, Ledger()
        self.codes: dict[str, list[str]] = {gpu: [] for gpu in gpus}
        self.ups: dict[str, int] = dict.fromkeys(gpus, 0)
        self.out: list[Output] = []
        for gpu in gpus:
            self.say(BackendDeclared(t_us=clock.now_us(), backend=gpu, gpus=[gpu]))

    def say(self, event: AnyEvent) -> None:
        self.out += self.ledger.hear(event)

    def tick(self) -> None:
        for event in self.meter.drain():
            self.say(event)
            if isinstance(event, MeterDown):
                self.codes[event.gpu].append(event.code)
            elif isinstance(event, MeterUp):
                self.ups[event.gpu] += 1
        self.say(Tick(t_us=self.clock.now_us(), source=0))

    def until(self, true: Callable[[], bool], what: str) -> None:
        def ticked() -> bool:
            self.tick()
            return true()

        wait_until(ticked, what)

    def later(self, seconds: float) -> None:
        end_us = self.clock.now_us() + seconds * 1e6
        self.until(lambda: self.clock.now_us() > end_us, "time to pass")

    def records(self) -> dict[str, RequestRecord]:
        return {o.uid: o for o in self.out if isinstance(o, RequestRecord) and o.state == "final"}

    def entries(self, gpu: str) -> list[BookEntry]:
        return [o for o in self.out if isinstance(o, BookEntry) and o.gpu == gpu]


def test_each_fault_costs_its_own_gpu_only_the_time_that_it_lasts(machines: Machines) -> None:
    machine = machines.make(len(CAUSE))
    board, gpus = machine.board, machine.uuids
    for number in range(len(gpus)):
        board.jump(number, 10_000)  # so that a counter can run backwards
    clock = Clock.anchored_now()
    meter = NvmlMeter(clock, gpus=gpus, library=machine.library, check_s=0)
    meter.set_busy(True)
    meter.start()
    try:
        books = Books(meter, clock, gpus)
        books.until(lambda: all(books.ups.values()), "all GPUs")
        books.later(1.0)
        for handle, gpu in enumerate(gpus, start=1):
            began = RequestStarted(
                t_us=clock.now_us(), handle=handle, uid=gpu, request_id=gpu, backend=gpu, model="m", route="/"
            )
            books.say(began)
        for number, (_, cause) in enumerate(CAUSE):
            cause(board, number)
        caused_us = clock.now_us()
        told = {gpu: code for gpu, (code, _) in zip(gpus, CAUSE, strict=True) if code is not None}
        books.until(lambda: all(code in books.codes[gpu] for gpu, code in told.items()), "every fault")
        # A counter that goes on tells of a gap what was drawn, and up to 5 s that counts as measured.
        books.until(lambda: clock.now_us() - caused_us > 1.2 * MAX_GAP_US, "the end of what is bridged")
        board.heal()
        board.freeze([code for code, _ in CAUSE].index("COUNTER_FROZEN"), False)
        books.until(lambda: all(books.ups[gpu] > 1 for gpu in told), "every GPU's return")
        books.later(1.0)
        for handle in range(1, len(gpus) + 1):
            books.say(RequestFinished(t_us=clock.now_us(), handle=handle, status="ok", http_status=200))
        books.until(lambda: len(books.records()) == len(gpus), "every record")
    finally:
        meter.close()

    assert books.codes[gpus[HEALTHY]] == []
    whole = books.records()[gpus[HEALTHY]]
    assert whole.unmeasured_us == 0
    assert whole.energy_uj is not None
    for gpu in told:
        record = books.records()[gpu]
        assert record.unmeasured_us > 0, gpu
        assert record.energy_uj is None or 0 <= record.energy_uj < 1.2 * whole.energy_uj, gpu
    for gpu in gpus:
        for entry in books.entries(gpu):
            parts = entry.requests_uj + entry.idle_uj + entry.unobserved_uj + entry.unmeasured_uj
            assert parts == (entry.measured_uj or 0)
            assert entry.measured_uj != 0
            assert (entry.measured_uj or 0) < 1_000_000_000  # none of the 50 kJ that nobody drew
