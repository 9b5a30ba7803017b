"""Every fault of the store under load, caused for real: nothing may be lost, come twice or delay a client.

    python -m benchmarks.chaos                  some of them for a second, and a few kills
    python -m benchmarks.chaos --full           all, 5 s each, and more than 50 kills at random moments
    python -m benchmarks.chaos --only database_killed --seed 3

Needs PostgreSQL (the machine's, or the wheel of `make setup`). Full disks are small tmpfs, which root can
mount; without that right these cases are left out and said to be. The last line is one JSON object. Exit
status 1 where a request was lost or stored twice, the audit found something, what a key has spent is not what
its records say or more than its budget and a request, clients waited (more than twice the 99th percentile of
before plus 150 ms), or a full run killed less than 50 times.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from benchmarks.faults import cases
from benchmarks.faults.cases import CASES, NoDisk, Scene
from benchmarks.faults.kills import KILLS, keys_postgres, workers
from benchmarks.faults.system import Outcome
from simulator.process import SimulatedEngine

SLOWER, MORE_MS = 2.0, 150.0
"""How much longer clients may wait during a fault; the machine is busy with the fault as well."""


ALL = (*CASES, *KILLS)
QUICK = (cases.disk_full, keys_postgres, workers)

KILLED = 50
"""Of a full run, in all."""


@click.command(help=__doc__)
@click.option("--full", is_flag=True, help="All faults, 5 s each, and more than 50 kills.")
@click.option("--only", multiple=True, type=click.Choice([case.__name__ for case in ALL]), help="Only these.")
@click.option("--seed", default=7, show_default=True, help="What the moments of kills are drawn from.")
def main(full: bool, only: tuple[str, ...], seed: int) -> None:
    begun_s = time.monotonic()
    outcomes: list[Outcome] = []
    left_out: dict[str, str] = {}
    with (
        tempfile.TemporaryDirectory(prefix="joulegate-chaos-") as place,
        SimulatedEngine(Path(place, "engine"), model="tiny") as engine,
    ):
        os.chmod(place, 0o711)  # PostgreSQL runs as somebody else
        for number, case in enumerate(ALL):
            if case.__name__ not in only if only else not full and case not in QUICK:
                continue
            directory = Path(place, f"{number}")
            directory.mkdir()
            click.echo(f"{case.__name__} ...", err=True)
            scene = Scene(engine, directory, hold_s=5.0 if full else 1.0, kills=17 if full else 2, seed=seed)
            try:
                outcomes.append(case(scene))
            except NoDisk as error:
                left_out[case.__name__] = str(error)
    _show(outcomes)
    for name, why in left_out.items():
        click.echo(f"left out {name}: {why}")
    missed = [f"{outcome.name}: {what}" for outcome in outcomes for what in _missed(outcome)]
    killed = sum(outcome.killed for outcome in outcomes)
    if full and not only and killed < KILLED:
        missed.append(f"{killed} kills of {KILLED}")
    for line in missed:
        click.echo(f"MISSED {line}")
    told = {"load": os.getloadavg()[0], "seed": seed, "kills": killed, "left_out": left_out, "missed": missed}
    told["took_s"] = round(time.monotonic() - begun_s, 1)
    click.echo(json.dumps({"benchmark": "chaos", "cases": [asdict(one) for one in outcomes], **told}))
    sys.exit(1 if missed or not outcomes else 0)


def _missed(outcome: Outcome) -> list[str]:
    counts = {"lost": outcome.lost, "twice": outcome.twice, "findings": outcome.findings}
    missed = [f"{count} {what}" for what, count in counts.items() if count]
    before_ms, during_ms = outcome.p99_ms, outcome.p99_fault_ms
    if before_ms is not None and during_ms is not None and during_ms > SLOWER * before_ms + MORE_MS:
        missed.append(f"p99 {during_ms:.0f} ms, before {before_ms:.0f} ms")
    if outcome.kills and not outcome.cut:
        missed.append("nothing was under way when something was killed")
    if not outcome.answered:
        missed.append("nobody was answered")
    return missed


def _show(outcomes: list[Outcome]) -> None:
    table = Table(title="Faults")
    for name in (
        "fault",
        "held s",
        "kills",
        "answered",
        "broken",
        "cut",
        "lost",
        "twice",
        "findings",
        "budgets",
        "p99 ms",
        "in it",
        "back s",
    ):
        table.add_column(name, justify="left" if name == "fault" else "right")
    for one in outcomes:
        counts = (
            one.killed,
            one.answered,
            one.broken,
            one.cut,
            one.lost,
            one.twice,
            one.findings,
            one.budgets or "-",
        )
        times = (one.p99_ms, one.p99_fault_ms, one.caught_up_s)
        told = ["-" if value is None else f"{value:.1f}" for value in times]
        table.add_row(one.name, f"{one.held_s:.1f}", *map(str, counts), *told)
    console = Console(highlight=False)
    console.width = max(console.width, 120)
    console.print(table)
    for one in outcomes:
        if one.kills:
            console.print(f"{one.name}: " + ", ".join(f"{count} {what}" for what, count in one.kills.items()))
        for note in filter(None, one.notes):
            console.print(f"{one.name}: {note}", markup=False)


if __name__ == "__main__":
    main()
