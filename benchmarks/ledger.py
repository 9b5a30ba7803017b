"""What the ledger costs: CPU time per tick and per settled interval, tokens per second of one core, memory.

    python -m benchmarks.ledger            quick; memory over two minutes of virtual time
    python -m benchmarks.ledger --full     longer runs; memory over an hour of virtual time
    python -m benchmarks.ledger --profile  what the time goes to, at 100,000 requests in flight

Every request in flight gets ten tokens a second and lives 30 s. Times are CPU time of this process. The last
line is one JSON object. Exit status 1 where an aim is missed: 1,000,000 tokens a second of 100,000 requests
in flight in less than one core (ticks, settling and counter reads; starts and ends are shown beside them),
and memory that stays as it is.
"""

from __future__ import annotations

import cProfile
import json
import pstats
import sys
from dataclasses import asdict, dataclass
from statistics import median
from time import process_time

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.load.memory import resident_bytes
from benchmarks.load.streams import TOKENS_PER_S, Streams

SIZES = (100, 1_000, 10_000, 100_000)
LIFE_S = 30.0
WARM_UP_S = 2.0
AIM_IN_FLIGHT = 100_000

WIDTH = 120
"""Characters of the table where the output is no terminal."""

SOAK_IN_FLIGHT = 500
SOAK_LIFE_S = 5.0
SOAK_SAMPLES = 60
AIM_GROWTH_BYTES = 2 * 2**20
"""Memory may grow by this much in the second half of the soak: the allocator's noise."""


@dataclass(frozen=True, slots=True)
class Speed:
    """CPU time at one number of requests in flight. Loads are shares of one core."""

    in_flight: int
    tokens_per_s: int
    tick_us: float
    interval_us: float
    """Of a tick that settles an interval, what it takes beyond a tick."""
    request_us: float | None
    """One request begun and ended, its provisional record included. None where none ended."""
    ticks_load: float
    churn_load: float
    keeps_up_tokens_per_s: int
    """Tokens per second at which ticks and settling would fill one core, requests in flight as they are."""
    state_ms: float
    """Writing down the whole state."""


@dataclass(frozen=True, slots=True)
class Soak:
    virtual_s: float
    requests: int
    begin_bytes: int
    middle_bytes: int
    end_bytes: int
    slope_bytes_per_min: float
    """Of the second half, by least squares, per minute of virtual time."""

    @property
    def growth_bytes(self) -> int:
        return self.end_bytes - self.middle_bytes


def speed(in_flight: int, virtual_s: float) -> Speed:
    streams = Streams(in_flight, LIFE_S)
    streams.run(WARM_UP_S)
    costs = streams.run(virtual_s)
    began = process_time()
    written = streams.ledger.state
    state_s = process_time() - began
    assert len(written.open) >= in_flight
    tick_s = median(costs.plain_s)
    tokens_per_s = in_flight * TOKENS_PER_S
    return Speed(
        in_flight=in_flight,
        tokens_per_s=tokens_per_s,
        tick_us=tick_s * 1e6,
        interval_us=(median(costs.settling_s) - tick_s) * 1e6,
        request_us=costs.churn_s / costs.ended * 1e6 if costs.ended else None,
        ticks_load=costs.ticks_load,
        churn_load=costs.churn_load,
        keeps_up_tokens_per_s=round(tokens_per_s / costs.ticks_load),
        state_ms=state_s * 1e3,
    )


def soak(virtual_s: float) -> Soak:
    """Requests come and go all the time; resident memory is sampled."""
    streams = Streams(SOAK_IN_FLIGHT, SOAK_LIFE_S)
    streams.run(2 * SOAK_LIFE_S)
    samples, ended = [resident_bytes()], 0
    for _ in range(SOAK_SAMPLES):
        ended += streams.run(virtual_s / SOAK_SAMPLES).ended
        samples.append(resident_bytes())
    half = samples[SOAK_SAMPLES // 2 :]
    minutes = np.arange(len(half)) * (virtual_s / SOAK_SAMPLES / 60)
    slope = float(np.polyfit(minutes, np.array(half, np.float64), 1)[0])
    return Soak(virtual_s, ended, samples[0], half[0], samples[-1], slope)


def show(speeds: list[Speed], soaked: Soak) -> None:
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    table = Table(title="the ledger on one core (CPU time)")
    heads = (
        "in flight",
        "tokens/s",
        "µs/tick",
        "µs/interval",
        "µs/request",
        "load: ticks",
        "load: requests",
        "keeps up with",
        "state, ms",
    )
    for head in heads:
        table.add_column(head, justify="right")
    for s in speeds:
        table.add_row(
            f"{s.in_flight:,}",
            f"{s.tokens_per_s:,}",
            f"{s.tick_us:,.0f}",
            f"{s.interval_us:,.0f}",
            "-" if s.request_us is None else f"{s.request_us:,.0f}",
            f"{s.ticks_load:.1%}",
            f"{s.churn_load:.1%}",
            f"{s.keeps_up_tokens_per_s:,} tok/s",
            f"{s.state_ms:,.1f}",
        )
    console.print(table)
    console.print(
        f"memory over {soaked.virtual_s:,.0f} s of virtual time, {soaked.requests:,} requests: "
        f"{soaked.begin_bytes / 2**20:.1f} MiB, at half time {soaked.middle_bytes / 2**20:.1f}, "
        f"at the end {soaked.end_bytes / 2**20:.1f}; "
        f"slope of the second half {soaked.slope_bytes_per_min / 1024:+.1f} KiB/min"
    )


def misses(speeds: list[Speed], soaked: Soak) -> list[str]:
    missed = [
        f"{s.tokens_per_s:,} tokens/s of {s.in_flight:,} requests take {s.ticks_load:.0%} of a core"
        for s in speeds
        if s.in_flight == AIM_IN_FLIGHT and not s.ticks_load < 1
    ]
    if not soaked.growth_bytes <= AIM_GROWTH_BYTES:
        missed.append(f"memory grew by {soaked.growth_bytes / 2**20:.1f} MiB in the second half")
    return missed


def profile() -> None:
    """Print what the time goes to."""
    streams = Streams(AIM_IN_FLIGHT, LIFE_S)
    streams.run(WARM_UP_S)
    profiler = cProfile.Profile()
    profiler.enable()
    streams.run(2.0)
    profiler.disable()
    pstats.Stats(profiler).sort_stats("tottime").print_stats(25)


@click.command(help=__doc__)
@click.option("--full", is_flag=True, help="Longer runs, memory over an hour of virtual time.")
@click.option("--profile", "profiled", is_flag=True, help="Only show where the time goes.")
def main(full: bool, profiled: bool) -> None:
    if profiled:
        profile()
        return
    soaked = soak(3_600.0 if full else 120.0)
    speeds = [speed(size, 20.0 if full else 4.0) for size in SIZES]
    show(speeds, soaked)
    missed = misses(speeds, soaked)
    result = {
        "benchmark": "ledger",
        "full": full,
        "met": not missed,
        "missed": missed,
        "speeds": [asdict(s) for s in speeds],
        "memory": asdict(soaked),
    }
    print(json.dumps(result))
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
