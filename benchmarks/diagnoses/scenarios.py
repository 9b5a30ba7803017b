"""Loads with a planted cause, and what the same requests draw once it is removed.

What is true comes from the simulator alone: the energy of all GPUs over the window that was diagnosed, or to
the end of the longer of the two runs, with the cause and without. After its work a GPU idles.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from accounting.diagnosis.findings import Finding
from accounting.records import MINUTE_US
from benchmarks.diagnoses.fleet import Ask, Replica, Served, dealt, poisson, serve
from benchmarks.diagnoses.told import Phase
from benchmarks.sweeps.told import T0_US
from simulator.cards import GPUS
from simulator.catalog import offer

MODEL, GPU = "llama-3.1-8b", "h100"
LIMIT_W = 330.0
SEATS = 32

Removed = Callable[[Sequence[Served], Finding, float], float]


@dataclass(frozen=True, slots=True)
class Scenario:
    """`planted` is the cause that has to come first. `before` is told first, on the same GPUs.

    `removed` gives the saving in joules that the simulator shows, once it is known what is proposed, up to a
    time in seconds.
    """

    name: str
    planted: str
    fleet: Sequence[Replica]
    removed: Removed
    before: Sequence[Replica] = ()
    brake: str = "sw_power_cap"

    def phases(self) -> tuple[list[Served], list[Phase]]:
        """What the fleet did, and all that is to be told of it."""
        phases: list[Phase] = []
        begin_s = 0.0
        if self.before:
            earlier = [serve(replica) for replica in self.before]
            seconds = end_s(earlier)
            phases.append(Phase(earlier, 0.0, seconds, self.brake))
            begin_s = _next_minute(seconds)
            phases[0].seconds = begin_s
        fleet = [serve(replica) for replica in self.fleet]
        phases.append(Phase(fleet, begin_s, end_s(fleet), self.brake))
        return fleet, phases


def end_s(fleet: Sequence[Served]) -> float:
    return max(served.end_s for served in fleet)


def replica(asks: list[Ask], name: str = "one", **changes: object) -> Replica:
    given, card = offer(MODEL, GPU, 1), GPUS[GPU]
    made = Replica(
        name,
        given.physics,
        1,
        card.idle_power_w,
        card.tdp_w,
        given.kv_blocks,
        asks,
        busy_w=card.busy_power_w,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def scenarios(seed: int) -> list[Scenario]:
    bursts = [ask for ask in poisson(10 * seed + 1, 8.0, 320.0, 230, 250) if not 45 < ask.at_s < 280]
    idle = Scenario("idle-heavy", "idle-power", [replica(bursts)], _switched_off)
    kv = replica(poisson(10 * seed + 2, 9.0, 120.0, 230, 250), kv_blocks=320)
    memory = Scenario("KV-bound", "kv-memory", [kv], _with(lambda r, _: replace(r, kv_blocks=640)))
    few = replica(poisson(10 * seed + 3, 4.0, 120.0, 230, 250), max_num_seqs=4)
    seats = Scenario("max_num_seqs too low", "max-num-seqs", [few], _with(_seated))
    heavy = replica(poisson(10 * seed + 4, 6.0, 150.0, 3000, 20))
    prompts = Scenario("prefill-heavy", "prefill", [heavy], _with(_halved))
    batch = [replace(ask, at_s=6.0) for ask in poisson(10 * seed + 5, 10.0, 126.0, 230, 250)]
    free = replica(batch, max_num_seqs=SEATS, waits=False)
    capped = Scenario(
        "power-capped",
        "power-cap",
        [replace(free, limit_w=LIMIT_W)],
        _with(lambda r, _: replace(r, limit_w=None)),
        before=[free],
    )
    braked = replace(capped, name="power brake", planted="thermal", brake="hw_power_brake_slowdown")
    dealt_out = dealt(poisson(10 * seed + 6, 4.0, 150.0, 230, 250), 4)
    many = [replica(asks, f"replica-{n + 1}") for n, asks in enumerate(dealt_out)]
    over = Scenario("over-provisioned", "replicas", many, _fewer)
    asks = poisson(10 * seed + 7, 14.0, 200.0, 230, 250)
    left = [
        replace(ask, leaves=max(1, round(0.9 * ask.answer_tokens))) if n % 2 else ask
        for n, ask in enumerate(asks)
    ]
    aborted = Scenario("half aborted", "aborted", [replica(left)], _with(_stayed))
    return [idle, memory, seats, prompts, capped, braked, over, aborted]


def _with(
    change: Callable[[Replica, Finding], Replica],
) -> Callable[[Sequence[Served], Finding, float], float]:
    """The same replicas, changed."""

    def removed(fleet: Sequence[Served], finding: Finding, until_s: float) -> float:
        return _saved(fleet, [serve(change(served.replica, finding)) for served in fleet], until_s)

    return removed


def _saved(now: Sequence[Served], then: Sequence[Served], until_s: float) -> float:
    until_s = max(until_s, end_s(now), end_s(then))
    return sum(s.energy_j(0.0, until_s) for s in now) - sum(s.energy_j(0.0, until_s) for s in then)


def _switched_off(fleet: Sequence[Served], _: Finding, until_s: float) -> float:
    """Off in every whole minute of UTC in which it had nothing to do."""
    served = fleet[0]
    busy = {
        minute
        for job in served.course.jobs
        for minute in range(
            _minute(job.arrives_s), _minute(float(served.course.step_end_s[job.last_step])) + 1
        )
    }
    first, last = _minute(0.0), _minute(until_s - 1.0)
    empty = [minute for minute in range(first, last + 1) if minute not in busy]
    seconds = sum((minute + 1) * 60 - T0_US / 1e6 - max(minute * 60 - T0_US / 1e6, 0.0) for minute in empty)
    return served.replica.idle_w * seconds


def _minute(at_s: float) -> int:
    return int((T0_US + at_s * 1e6) // MINUTE_US)


def _next_minute(at_s: float) -> float:
    return (_minute(at_s) + 1) * 60 - T0_US / 1e6


def _seated(few: Replica, finding: Finding) -> Replica:
    room = finding.evidence["room_for"]
    assert isinstance(room, int)
    return replace(few, max_num_seqs=room)


def _halved(heavy: Replica, _: Finding) -> Replica:
    shorter = [replace(ask, prompt_tokens=max(1, ask.prompt_tokens // 2)) for ask in heavy.asks]
    return replace(heavy, asks=shorter)


def _fewer(fleet: Sequence[Served], finding: Finding, until_s: float) -> float:
    count = finding.evidence["replicas_enough"]
    assert isinstance(count, int)
    asks = sorted((ask for served in fleet for ask in served.replica.asks), key=lambda ask: ask.at_s)
    then = [
        serve(replace(served.replica, asks=part))
        for served, part in zip(fleet, dealt(asks, count), strict=False)
    ]
    return _saved(fleet, then, until_s)


def _stayed(replica: Replica, _: Finding) -> Replica:
    return replace(replica, asks=[ask for ask in replica.asks if ask.leaves is None])
