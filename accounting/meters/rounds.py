"""The hot loop: one thread reads all GPUs in turn, one call each, and does nothing else.

A thread per GPU would wake eight times as often. What it would be good for, that a call which hangs holds up
its own GPU only, is had so: whoever watches sees the hung call and puts a new thread in the place of the old
one, with all GPUs but this. When the call returns at last, its thread hands the GPU over and ends.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from accounting.clock import Clock
from accounting.meters.faults import TRIES, Fault
from accounting.meters.pace import Calls, Pace
from accounting.meters.sources import Counter, Source
from accounting.meters.staircase import Step

HUNG_US = 500_000
"""A call that takes longer holds the others up no more."""

STEPS = 512
JUMP_SLACK_US = 1_000_000
"""Time by which a counter may be behind when its rise is judged."""


class Lane:
    """One GPU in the loop, read through one source. The loop's thread writes, others only look."""

    def __init__(self, slot: int, source: Source, most_mw: int) -> None:
        self.slot, self.source = slot, source
        self.broken = threading.Event()
        """Set when `fault` is believed; the loop has dropped the lane by then."""
        self.fault: Fault | None = None
        self.left = False
        self.calls = Calls()
        self.steps: deque[Step] = deque(maxlen=STEPS)
        self.read_us = self.changed_us = 0
        """When it was last read, and when its value last changed. 0: never."""
        self.unchanged = 0
        self.energy_mj: int | None = None
        self.due_us = 0
        self._most_mw = most_mw if isinstance(source, Counter) else None
        self._read_lo_us = 0
        self._failed = 0

    def take(self, t_lo_us: int, t_hi_us: int, energy_mj: int) -> None:
        """Take a value, or raise Fault where it cannot be true."""
        if energy_mj == self.energy_mj:
            self.unchanged += 1
        else:
            self._step(t_hi_us, energy_mj)
        self.read_us, self._read_lo_us, self._failed = t_hi_us, t_lo_us, 0

    def _step(self, t_us: int, energy_mj: int) -> None:
        if self.energy_mj is not None:
            if self._most_mw is not None:
                self._judge(energy_mj - self.energy_mj, t_us)
            self.steps.append(Step(self._read_lo_us, t_us, energy_mj))
        self.energy_mj, self.changed_us, self.unchanged = energy_mj, t_us, 0

    def _judge(self, rise_mj: int, t_us: int) -> None:
        assert self._most_mw is not None
        if rise_mj < 0:
            raise Fault("COUNTER_RESET", f"by {-rise_mj / 1000:.0f} J")
        if rise_mj * 1_000_000 > self._most_mw * (t_us - self.changed_us + JUMP_SLACK_US):
            raise Fault(
                "COUNTER_JUMPED", f"by {rise_mj / 1000:.0f} J in {(t_us - self.changed_us) / 1e6:.2f} s"
            )

    def doubt(self, fault: Fault) -> bool:
        """Count a fault; True when it is to be believed."""
        self._failed += 1
        return fault.is_final or self._failed >= TRIES


class Rounds:
    """The lanes and the thread that reads them at present."""

    def __init__(self, clock: Clock, pace: Pace, read: Callable[[int, int, int, int, int], None]) -> None:
        """`read` takes what `Ring.write` takes."""
        self.clock, self.pace, self.read = clock, pace, read
        self._lock = threading.Lock()
        self.lanes: tuple[Lane, ...] = ()
        self.reader = _Reader(self)
        self.reader.start()

    def add(self, lane: Lane) -> None:
        with self._lock:
            if not lane.left:
                self.lanes = (*self.lanes, lane)
        self.pace.nudge()

    def remove(self, lane: Lane) -> None:
        with self._lock:
            lane.left = True
            self.lanes = tuple(other for other in self.lanes if other is not lane)

    def doubt(self, lane: Lane, fault: Fault) -> None:
        """Count a fault; drop the lane when it is to be believed."""
        if lane.doubt(fault):
            self.remove(lane)
            lane.fault = fault
            lane.broken.set()

    def watch(self) -> None:
        """To be called now and then: leaves a thread whose call hangs alone with its GPU."""
        reader = self.reader
        lane = reader.calling
        if lane is None or self.clock.now_us() - reader.since_us < HUNG_US:
            return
        with self._lock:
            self.lanes = tuple(other for other in self.lanes if other is not lane)
            self.reader = _Reader(self)
        self.reader.start()


class _Reader(threading.Thread):
    """Every line here runs some 270 times per second on a machine with eight GPUs."""

    def __init__(self, rounds: Rounds) -> None:
        super().__init__(name="reader", daemon=True)
        self._rounds = rounds
        self.calling: Lane | None = None
        self.since_us = 0

    def run(self) -> None:
        rounds, now_us, read = self._rounds, self._rounds.clock.now_us, self._rounds.read
        while rounds.reader is self:
            for lane in rounds.lanes:
                self.since_us = t_lo_us = now_us()
                if t_lo_us < lane.due_us:
                    continue
                self.calling = lane
                try:
                    energy_mj = lane.source.read_mj()
                    t_hi_us = now_us()
                    self.calling = None
                    if rounds.reader is not self:
                        # Its value could be from any time of the hang: it is left out.
                        rounds.add(lane)
                        return
                    lane.take(t_lo_us, t_hi_us, energy_mj)
                except Fault as fault:
                    t_hi_us = now_us()
                    self.calling = None
                    if rounds.reader is not self:
                        rounds.add(lane)
                        return
                    read(lane.slot, t_lo_us, t_hi_us, 0, fault.status)
                    rounds.doubt(lane, fault)
                else:
                    read(lane.slot, t_lo_us, t_hi_us, energy_mj, 0)
                lane.calls.taken_us.append(t_hi_us - t_lo_us)
                if lane.calls.every > 1:
                    lane.due_us = t_hi_us + round((lane.calls.every - 1) * rounds.pace.busy_period_s * 1e6)
            rounds.pace.wait()
