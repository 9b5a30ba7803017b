"""Beside the reads of one GPU: telemetry, how well it is measured, and whether its counter can be believed.

Begins with a check of a few seconds: the counter is read every 10 ms to learn its period and jitter, and its
energy is compared with power summed over the same time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from accounting.events import CrossCheck, GpuTelemetry, MeterQuality
from accounting.meters import telemetry
from accounting.meters.faults import Fault
from accounting.meters.nvml import Device, Reading
from accounting.meters.pace import SLOW_US
from accounting.meters.rounds import Lane, Rounds
from accounting.meters.sources import Counter, candidates, most_power_mw, powers, try_out
from accounting.meters.staircase import Rhythm, cross_check, rhythm
from accounting.meters.wire import Config, Said

LOOK_S = 1.0
IDLE_TELEMETRY_S = 10.0
BUSY_QUALITY_S, IDLE_QUALITY_S = 10.0, 60.0
POWER_PERIOD_S = 0.05

SELDOMEST_BETTER_S = 600.0
"""Better ways to read are tried again ever more seldom, down to this."""

FROZEN_US = 3_000_000
FROZEN_READS = 3
FROZEN_MJ = 20_000
"""A counter is frozen that has not moved for so long and so many reads while so much was drawn."""


@dataclass
class Learnt:
    """What the first check of a GPU's counter found; made once, as it means many reads."""

    done: bool = False
    rhythm: Rhythm | None = None
    check: CrossCheck | None = None


class Watch:
    """What `until_better` does, for one lane. `rank`: how many better sources there are."""

    def __init__(
        self,
        device: Device,
        lane: Lane,
        rank: int,
        learnt: Learnt,
        config: Config,
        rounds: Rounds,
        say: Callable[[Said], None],
    ) -> None:
        self._device, self._lane, self._rank, self._config = device, lane, rank, config
        self._pace, self._now_us, self._say = rounds.pace, rounds.clock.now_us, say
        self._learnt = learnt
        self._every = 1

    def until_better(self, frozen_mj: int | None) -> None:
        """Return when a better source answers; raise the lane's Fault when it has broken.

        `frozen_mj` is where a counter of this GPU once stood still, if one did.
        """
        self._say_telemetry()
        if self._config.check_s and not self._learnt.done and isinstance(self._lane.source, Counter):
            self._first_check()
        self._say_quality()
        better_s = self._config.better_s
        said_s = asked_s = tried_s = time.monotonic()
        while not self._lane.broken.wait(LOOK_S):
            now_s, busy = time.monotonic(), self._pace.busy
            self._lane.calls.judge(self._pace.busy_period_s)
            if busy or now_s - asked_s >= IDLE_TELEMETRY_S:
                self._judge(self._say_telemetry())
                asked_s = now_s
            quality_s = BUSY_QUALITY_S if busy else IDLE_QUALITY_S
            if now_s - said_s >= quality_s or self._lane.calls.every != self._every:
                self._say_quality()
                said_s = now_s
            if self._rank and now_s - tried_s >= better_s:
                better = candidates(self._device)[: self._rank]
                if any(try_out(source, frozen_mj) is None for source in better):
                    return
                better_s, tried_s = min(2 * better_s, SELDOMEST_BETTER_S), now_s
        self._raise()

    def _raise(self) -> None:
        assert self._lane.fault is not None
        raise self._lane.fault

    def _first_check(self) -> None:
        """Read often for a while, with power beside it."""
        begin_us = self._now_us()
        self._pace.hurry(self._config.check_s)
        sensors: Sequence[Reading] = powers(self._device)
        seen: list[tuple[int, int]] = []
        while self._now_us() - begin_us < self._config.check_s * 1e6:
            if self._lane.broken.wait(POWER_PERIOD_S):
                self._raise()
            power_mw, sensors = first_power(sensors)
            if power_mw is not None and power_mw <= most_power_mw(self._device):
                seen.append((self._now_us(), power_mw))
        steps = list(self._lane.steps)
        learnt = self._learnt
        learnt.done, learnt.rhythm, learnt.check = True, rhythm(steps), cross_check(steps, seen)

    def _say_telemetry(self) -> GpuTelemetry:
        said = telemetry.read(self._device, self._now_us())
        self._say(said)
        return said

    def _judge(self, said: GpuTelemetry) -> None:
        """Raise Fault COUNTER_FROZEN if power is drawn and the counter does not move."""
        lane = self._lane
        still_us = lane.read_us - lane.changed_us
        if not isinstance(lane.source, Counter) or still_us < FROZEN_US or lane.unchanged < FROZEN_READS:
            return
        power_mw = said.power_mw
        if power_mw is None:
            power_mw, _ = first_power(powers(self._device))
        if power_mw is None or power_mw > most_power_mw(self._device):
            return
        drawn_mj = power_mw * still_us // 1_000_000
        if drawn_mj >= FROZEN_MJ:
            raise Fault("COUNTER_FROZEN", f"for {still_us / 1e6:.1f} s at {power_mw / 1000:.0f} W")

    def _say_quality(self) -> None:
        calls = self._lane.calls
        calls.judge(self._pace.busy_period_s)
        period_s = self._pace.period_s
        if calls.every > 1:
            period_s = max(period_s, calls.every * self._pace.busy_period_s)
        self._every, learnt = calls.every, self._learnt
        self._say(
            MeterQuality(
                t_us=self._now_us(),
                gpu=self._device.uuid,
                read_period_us=round(period_s * 1e6),
                call_p50_us=calls.p50_us,
                call_p95_us=calls.p95_us,
                counter_period_us=learnt.rhythm.period_us if learnt.rhythm else None,
                counter_jitter_us=learnt.rhythm.jitter_us if learnt.rhythm else None,
                counter_lag_us=self._config.counter_lag_us,
                check=learnt.check,
                warning=warning(calls.p95_us if calls.every > 1 else None, period_s, learnt.check),
            )
        )


def first_power(sensors: Sequence[Reading]) -> tuple[int | None, Sequence[Reading]]:
    """Power in milliwatts by the first sensor that works, and the sensors without those that do not."""
    for number, sensor in enumerate(sensors):
        try:
            return sensor(), sensors[number:]
        except Fault as fault:
            if fault.code not in ("NOT_SUPPORTED", "FUNCTION_NOT_FOUND"):
                return None, sensors[number:]  # it may answer the next time
    return None, ()


def warning(slow_p95_us: int | None, period_s: float, check: CrossCheck | None) -> str | None:
    """What an operator should know of how a GPU is measured; None: nothing."""
    said = []
    if slow_p95_us is not None:
        said.append(
            f"calls for its energy are slow: 95 % take up to {slow_p95_us / 1000:.1f} ms, more than "
            f"{SLOW_US / 1000:.0f} ms; it is read every {period_s * 1000:.0f} ms at most"
        )
    if check is not None and not check.agrees:
        said.append(
            f"its energy counter and its power disagree: {check.counter_mj / 1000:.0f} J against "
            f"{check.power_mj / 1000:.0f} J in {check.over_us / 1e6:.1f} s; one of the two is wrong"
        )
    return "; ".join(said) or None
