"""What the relay costs, beside other proxies: CPU per request and chunk, throughput, latency, memory.

    python -m benchmarks.relay            joulegate, and of nginx and the Rust routers what is installed
    python -m benchmarks.relay --full     all peers, installed if need be; medians of 3, a soak;
                                          writes docs/relay.md
    python -m benchmarks.relay --only joulegate --soak 60

Needs Linux, two cores and a C compiler. The last line is one JSON object. Exit status 1 where an aim is
missed (benchmarks/rig/report.py).
"""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path

import click

from benchmarks.rig import report
from benchmarks.rig.build import RigError
from benchmarks.rig.driver import Counts, Rig
from benchmarks.rig.measure import Figures, Plan, direct, measure, medians
from benchmarks.rig.processes import pinned
from benchmarks.rig.report import Row
from benchmarks.rig.systems import QUICK, SYSTEMS, System, missing

QUICK_PLAN = Plan(warm_s=0.3, window_s=1.5)
FULL_PLAN = Plan(warm_s=1.0, window_s=4.0, soak_s=300.0)
ROUNDS = 3
DOCS = Path(__file__).parents[1] / "docs"


@click.command(help=__doc__)
@click.option("--full", is_flag=True, help="All peers, medians of 3, a soak; writes docs/relay.md.")
@click.option("--only", multiple=True, type=click.Choice([s.name for s in SYSTEMS]), help="Only these.")
@click.option("--rounds", type=click.IntRange(min=1), help="Rounds (3 with --full, else 1).")
@click.option("--soak", type=float, help="Seconds over which memory is watched (300 with --full, else none).")
def main(full: bool, only: tuple[str, ...], rounds: int | None, soak: float | None) -> None:
    plan = FULL_PLAN if full else QUICK_PLAN
    plan = plan if soak is None else replace(plan, soak_s=soak)
    rounds = rounds or (ROUNDS if full else 1)
    systems = [one for one in SYSTEMS if one.name in only] if only else list(SYSTEMS if full else QUICK)
    busy = os.getloadavg()[0]
    why = {system.name: missing(system, install=full) for system in systems}
    present = [system for system in systems if why[system.name] is None]
    found: dict[str, list[Figures]] = {system.name: [] for system in present}
    cores = sorted(os.sched_getaffinity(0))
    with Rig(cores[0]) as rig:
        without = direct(rig, plan)
        for number in range(rounds):
            this = plan if number == 0 else replace(plan, soak_s=0.0)
            for system in present:
                say(f"{system.title} ({number + 1} of {rounds}) ...")
                try:
                    found[system.name].append(_once(system, rig, this, without, cores))
                except RigError as error:
                    why[system.name] = str(error)[:200]
                    say(f"{system.name}: {error}")
    rows = [_row(system, found.get(system.name, []), why[system.name]) for system in systems]
    report.show(rows)
    missed = report.misses(rows)
    if full and not only:
        page = report.page(rows, plan, rounds, datetime.now(UTC).date(), _machine(cores, busy))
        (DOCS / "relay.md").write_text(page)
    result = {
        "benchmark": "relay",
        "full": full,
        "met": not missed,
        "missed": missed,
        "load_before": round(busy, 2),
        "cores": len(cores),
        "direct_us": {"p50": without.whole_us.p50_us, "p99": without.whole_us.p99_us},
        "systems": {row.name: None if row.figures is None else asdict(row.figures) for row in rows},
        "missing": {row.name: row.why for row in rows if row.figures is None},
    }
    print(json.dumps(result))
    sys.exit(1 if missed else 0)


def _once(system: System, rig: Rig, plan: Plan, without: Counts, cores: list[int]) -> Figures:
    """One round of a system, started afresh."""
    with tempfile.TemporaryDirectory(prefix="joulegate-relay-") as scratch:
        directory = Path(scratch)
        with ExitStack() as stack:
            with pinned(cores[-1]):  # what it starts inherits the core
                running = stack.enter_context(system.running(rig.engine_port, directory))
            return measure(system, running, rig, plan, without)


def _row(system: System, rounds: list[Figures], why: str | None) -> Row:
    figures = medians(rounds) if rounds else None
    return Row(name=system.name, title=system.title, figures=figures, why=None if rounds else why)


def _machine(cores: list[int], busy: float) -> str:
    kind = f"{platform.system()} {platform.machine()}, {len(cores)} cores"
    return f"{kind}, Python {platform.python_version()}, load before the run {busy:.1f}"


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
