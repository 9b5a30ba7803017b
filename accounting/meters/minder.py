"""One GPU for as long as the process lives: find it, choose how to read it, begin again when it fails.

A thread per GPU, for all that is slow; a call that hangs here holds up this GPU only. The reads themselves
are made by the hot loop (`rounds.py`).
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

from accounting.clock import Clock
from accounting.events import MeterDown, MeterUp
from accounting.meters.faults import BEGINS_ANEW, NEEDS_NEW_PROCESS, Fault
from accounting.meters.nvml import Device, Nvml
from accounting.meters.rounds import Lane, Rounds
from accounting.meters.sources import Choice, candidates, choose, most_power_mw
from accounting.meters.watch import Learnt, Watch
from accounting.meters.wire import Config, Said

EXIT_START_AGAIN = 75

FIRST_RETRY_S, LAST_RETRY_S = 0.5, 30.0


class Minder(threading.Thread):
    """Looks after one GPU, named by its UUID or its index; `slot` is its number in the ring."""

    def __init__(
        self,
        nvml: Nvml,
        which: str | int,
        slot: int,
        config: Config,
        rounds: Rounds,
        tell: Callable[[int, Said], None],
    ) -> None:
        super().__init__(name=f"gpu-{which}", daemon=True)
        self._nvml, self._which, self._slot, self._config = nvml, which, slot, config
        self._rounds, self._tell = rounds, tell
        self._known_as = which if isinstance(which, str) else f"index {which}"
        self._frozen_mj: int | None = None
        self._anew = False
        self._learnt = Learnt()

    def run(self) -> None:
        retry_s = FIRST_RETRY_S
        while True:
            begin_s = time.monotonic()
            try:
                self._mind()
                continue  # there is a better way to read it now
            except Fault as fault:
                self._tell(self._slot, down(self._rounds.clock, self._known_as, fault))
                if fault.code in NEEDS_NEW_PROCESS:
                    os._exit(EXIT_START_AGAIN)
                self._anew = fault.code in BEGINS_ANEW
            if time.monotonic() - begin_s > LAST_RETRY_S:
                retry_s = FIRST_RETRY_S  # it worked for a good while: not the old trouble
            time.sleep(retry_s)
            retry_s = min(2 * retry_s, LAST_RETRY_S)

    def _mind(self) -> None:
        """Have the GPU read until that fails for good (raises Fault) or could be done better (returns)."""
        device = self._nvml.device(self._which)
        choice = choose(candidates(device, self._config.counter_lag_us), self._frozen_mj)
        self._known_as = device.uuid
        self._tell(self._slot, self._up(device, choice))
        self._anew = False
        lane = Lane(self._slot, choice.source, most_power_mw(device))
        self._rounds.add(lane)
        watch = Watch(device, lane, len(choice.refused), self._learnt, self._config, self._rounds, self._say)
        try:
            watch.until_better(self._frozen_mj)
        except Fault as fault:
            if fault.code == "COUNTER_FROZEN":
                self._frozen_mj = lane.energy_mj
            raise
        finally:
            self._rounds.remove(lane)

    def _up(self, device: Device, choice: Choice) -> MeterUp:
        return MeterUp(
            t_us=self._rounds.clock.now_us(),
            gpu=device.uuid,
            device=device.name,
            method=choice.source.method,
            simulated=self._nvml.simulated,
            lag_us=choice.source.lag_us or 0,
            power_limit_mw=device.power_limit_mw,
            index=device.index,
            source=choice.source.name,
            note=choice.note,
            new_epoch=self._anew,
        )

    def _say(self, said: Said) -> None:
        self._tell(self._slot, said)


def down(clock: Clock, gpu: str, fault: Fault) -> MeterDown:
    """The event for a fault."""
    return MeterDown(t_us=clock.now_us(), gpu=gpu, code=fault.code, message=str(fault))
