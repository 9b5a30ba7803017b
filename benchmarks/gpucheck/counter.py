"""The steps about the counter: load of known course, fast reads beside it, and what follows from both."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from benchmarks.gpucheck.burner import Burner, now_us, pulses, scattered, steady, wait_until
from benchmarks.gpucheck.edges import Cadence, cadence, find_edges
from benchmarks.gpucheck.lag import Lag, find_lag
from benchmarks.gpucheck.reader import reading
from benchmarks.gpucheck.sampling import Block, Kind, Sampling, judge

ON_MS = OFF_MS = (130.0, 370.0)
"""Load and rest of the lag's pattern: longer than a counter's period, and never in step with it."""

PHASES = 8
DUTY = 0.25
FINE_US = 10_000.0
"""Period of the fine load: 2.5 ms on of 10, so that any window of 25 ms sees the same."""

SPARE_S = 30.0


@dataclass(frozen=True)
class Counter:
    """The counter under a load that was switched at known times."""

    reads: int
    cadence: Cadence | None
    lag: Lag | None


def follow(burner: Burner, library: Path | None, seconds: float) -> Counter:
    """Period, jitter and lag."""
    with reading(seconds + SPARE_S, library) as found:
        bursts = scattered(burner, seconds, ON_MS, OFF_MS, seed=1)
        wait_until(now_us() + 700_000)  # until the counter has shown the last of it
    edges = find_edges(found[0])
    return Counter(len(found[0].value), cadence(edges), find_lag(edges, bursts))


def undersampling(
    burner: Burner, library: Path | None, block_s: float, period_us: float, lag_us: float
) -> Sampling | None:
    """The blocks of sampling.py, the bursts locked to the counter's own period."""
    on_us = DUTY * period_us
    off_ms = ((period_us - on_us) * 0.4 / 1000, (period_us - on_us) * 1.6 / 1000)
    blocks: list[Block] = []
    with reading((PHASES + 5) * (block_s + 1) + SPARE_S, library) as found:

        def block(kind: Kind, phase: float | None = None) -> None:
            begin_us = now_us()
            if kind == "on":
                bursts = steady(burner, block_s)
            elif kind == "off":
                bursts = []
                wait_until(begin_us + block_s * 1e6)
            elif kind == "random":
                bursts = scattered(burner, block_s, (on_us / 1000, on_us / 1000), off_ms, seed=2)
            elif kind == "fine":
                bursts = pulses(burner, block_s, DUTY * FINE_US, FINE_US, 0.0)
            else:
                bursts = pulses(burner, block_s, on_us, period_us, (phase or 0.0) * period_us)
            blocks.append(Block(kind, phase, begin_us, now_us(), bursts))

        block("off")
        block("on")
        block("random")
        block("fine")
        for number in range(PHASES):
            block("locked", number / PHASES)
        block("random")
        wait_until(now_us() + 700_000)
    return judge(find_edges(found[0]), blocks, lag_us)
