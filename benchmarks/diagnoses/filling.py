"""The capacity answer, tried: the simulator runs at it, and at a tenth more.

One replica is watched for some minutes at changing loads below the answer. Asked is how much of the same fits
a power budget with limits on latency. The simulator then serves that rate on so many replicas with the
proposed max_num_seqs, for longer and with another seed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from accounting.diagnosis.capacity import Capacity, Question, capacity
from accounting.diagnosis.reading import WindowReader
from benchmarks.diagnoses.check import stored
from benchmarks.diagnoses.fleet import Ask, Served, dealt, poisson, serve
from benchmarks.diagnoses.scenarios import end_s, replica
from benchmarks.diagnoses.told import AFTER_S, Phase, Teller
from benchmarks.sweeps.told import T0_US

PROMPT, ANSWER = 1500, 150
QUESTION = Question(power_w=1900.0, ttft_ms=600.0, itl_ms=60.0, percent=95.0, growth=0.1)
LOADS = (2.0, 5.0, 8.0)
LOAD_S = 60.0
QUICK_S, FULL_S = 120.0, 600.0
WARM_S = 20.0
"""Left out of what is judged: the batch has to fill."""

MORE = 1.1


@dataclass(frozen=True, slots=True)
class Tried:
    """What the simulator gave at a rate."""

    per_s: float
    power_w: float
    ttft_ms: float
    itl_ms: float

    @property
    def broken(self) -> list[str]:
        limits = (
            ("power", self.power_w, QUESTION.power_w),
            ("ttft", self.ttft_ms, QUESTION.ttft_ms),
            ("itl", self.itl_ms, QUESTION.itl_ms),
        )
        return [name for name, value, limit in limits if limit is not None and value > limit]


@dataclass(frozen=True, slots=True)
class Filled:
    answer: Capacity
    at: Tried | None
    above: Tried | None

    @property
    def missed(self) -> list[str]:
        if self.at is None or self.above is None:
            return ["capacity: no answer"]
        missed = [f"capacity: {name} is broken at the answer" for name in self.at.broken]
        return missed if self.above.broken else [*missed, "capacity: a tenth more breaks nothing"]


def fill(seconds: float) -> Filled:
    """The simulator runs for so long at the answer."""
    answer = asked()
    if answer.most is None:
        return Filled(answer, None, None)
    way = answer.most
    at, above = (tried(factor * way.per_s, way.replicas, way.max_num_seqs, seconds) for factor in (1.0, MORE))
    return Filled(answer, at, above)


def asked() -> Capacity:
    """The answer from what was watched: one replica at each of the loads for a minute."""
    asks: list[Ask] = []
    for number, per_s in enumerate(LOADS):
        part = poisson(20 + number, per_s, LOAD_S + 6.0, PROMPT, ANSWER)
        asks += [replace(ask, at_s=ask.at_s + number * LOAD_S) for ask in part]
    served = serve(replica(asks))
    teller = Teller()
    teller.tell(Phase([served], 0.0, served.end_s + AFTER_S))
    with stored(teller.finish()) as engine:
        reader = WindowReader(engine)
        t0_us, t1_us = T0_US, T0_US + round(1e6 * served.end_s)
        window = reader.window(t0_us, t1_us)
        return capacity(window.backends, reader.mix(t0_us, t1_us, ["one"]), QUESTION)


def tried(per_s: float, replicas: int, max_num_seqs: int, seconds: float) -> Tried:
    asks = poisson(99, per_s, seconds, PROMPT, ANSWER)
    fleet = [
        serve(replica(part, f"replica-{n}", max_num_seqs=max_num_seqs))
        for n, part in enumerate(dealt(asks, replicas))
    ]
    until_s = min(seconds, end_s(fleet))
    power_w = sum(served.energy_j(WARM_S, until_s) for served in fleet) / (until_s - WARM_S)
    ttft_s = [t for served in fleet for t in _late(served, served.ttft_s())]
    itl_s = [t for served in fleet for t in served.itl_s()]
    ttft_ms, itl_ms = (1000 * float(np.percentile(values, QUESTION.percent)) for values in (ttft_s, itl_s))
    return Tried(per_s, power_w, ttft_ms, itl_ms)


def _late(served: Served, values: list[float]) -> list[float]:
    """Of requests that came after the warm-up."""
    jobs = [job for job in served.course.jobs if job.spans]
    return [value for job, value in zip(jobs, values, strict=True) if job.arrives_s >= WARM_S]
