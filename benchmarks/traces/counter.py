"""The energy counter of each GPU above the true curve, and how a meter reads it.

A staircase: it is written every `period_s`, a little early or late, with the energy of `LAG_S` before, each
increment off by 1 %; whole millijoules. The meter polls it about every 30 ms, dithered, and is not told the
lag.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.traces.engine import Run
from benchmarks.traces.scenario import Scenario

Floats = NDArray[np.float64]

LAG_S = 0.05
JITTER = 0.03
"""Standard deviation of the moment of writing, as a share of the period."""

NOISE = 0.01
POLL_S = 0.03
DITHER = 0.25
CALL_S = (50e-6, 300e-6)
"""How long a read takes."""


@dataclass(slots=True)
class Reads:
    """One GPU's reads: taken between lo_s and hi_s."""

    gpu: str
    lo_s: Floats
    hi_s: Floats
    energy_mj: NDArray[np.int64]


def read(scenario: Scenario, run: Run) -> list[Reads]:
    """What the meter reads of each GPU; they share the energy equally, but each counter has its own clock."""
    random = np.random.default_rng([scenario.seed, 2])
    return [_read(scenario, run, f"GPU-{k}", random) for k in range(scenario.gpus)]


def _read(scenario: Scenario, run: Run, gpu: str, random: np.random.Generator) -> Reads:
    end_s, period_s = float(run.time_s[-1]), scenario.counter_period_s
    written_s = np.arange(float(random.uniform(0, period_s)), end_s, period_s)
    written_s = np.sort(written_s + random.normal(0, JITTER * period_s, len(written_s)))
    true_j = np.interp(written_s - LAG_S, run.time_s, run.energy_j) / scenario.gpus
    gained_j = np.diff(true_j, prepend=0.0) * (1 + NOISE * random.standard_normal(len(true_j)))
    shown_mj = np.floor((5e6 + np.cumsum(gained_j)) * 1000).astype(np.int64)
    gaps_s = POLL_S * random.uniform(1 - DITHER, 1 + DITHER, int(end_s / (POLL_S * (1 - DITHER))))
    lo_s = np.cumsum(gaps_s)
    lo_s = lo_s[lo_s < end_s]
    took_s = random.uniform(*CALL_S, len(lo_s))
    seen = np.searchsorted(written_s, lo_s + took_s / 2, side="right")
    energy_mj = np.concatenate([[5_000_000_000], shown_mj])[seen]
    return Reads(gpu, lo_s, lo_s + took_s, energy_mj)
