"""Every fault of the store under load, caused for real: nothing may be lost, come twice or delay a client.

    python -m benchmarks.chaos                  each fault for 2 s, joulegate killed 5 times
    python -m benchmarks.chaos --full           5 s, killed 20 times
    python -m benchmarks.chaos --only database_killed

Needs PostgreSQL (the machine's, or the wheel of `make setup`). Full disks are small tmpfs, which root can
mount; without that right these cases are left out and said to be. The last line is one JSON object. Exit
status 1 where a request was lost or stored twice, the audit found something, or clients waited: more than
twice the 99th percentile of before plus 150 ms.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from benchmarks.faults.cases import CASES, NoDisk, Scene
from benchmarks.faults.system import Outcome
from simulator.process import SimulatedEngine

SLOWER, MORE_MS = 2.0, 150.0
"""How much longer clients may wait during a fault; the machine is busy with the fault as well."""


@click.command(help=__doc__)
@click.option("--full", is_flag=True, help="5 s each, joulegate killed 20 times.")
@click.option(
    "--only", multiple=True, type=click.Choice([case.__name__ for case in CASES]), help="Only these."
)
def main(full: bool, only: tuple[str, ...]) -> None:
    outcomes: list[Outcome] = []
    left_out: dict[str, str] = {}
    with (
        tempfile.TemporaryDirectory(prefix="joulegate-chaos-") as place,
        SimulatedEngine(Path(place, "engine"), model="tiny") as engine,
    ):
        os.chmod(place, 0o711)  # PostgreSQL runs as somebody else
        for number, case in enumerate(CASES):
            if only and case.__name__ not in only:
                continue
            directory = Path(place, f"{number}")
            directory.mkdir()
            click.echo(f"{case.__name__} ...", err=True)
            scene = Scene(engine, directory, hold_s=5.0 if full else 2.0, kills=20 if full else 5)
            try:
                outcomes.append(case(scene))
            except NoDisk as error:
                left_out[case.__name__] = str(error)
    _show(outcomes)
    for name, why in left_out.items():
        click.echo(f"left out {name}: {why}")
    missed = [f"{outcome.name}: {what}" for outcome in outcomes for what in _missed(outcome)]
    for line in missed:
        click.echo(f"MISSED {line}")
    told = {"load": os.getloadavg()[0], "left_out": left_out, "missed": missed}
    click.echo(json.dumps({"benchmark": "chaos", "cases": [asdict(one) for one in outcomes], **told}))
    sys.exit(1 if missed or not outcomes else 0)


def _missed(outcome: Outcome) -> list[str]:
    counts = {"lost": outcome.lost, "twice": outcome.twice, "findings": outcome.findings}
    missed = [f"{count} {what}" for what, count in counts.items() if count]
    before_ms, during_ms = outcome.p99_ms, outcome.p99_fault_ms
    if before_ms is not None and during_ms is not None and during_ms > SLOWER * before_ms + MORE_MS:
        missed.append(f"p99 {during_ms:.0f} ms, before {before_ms:.0f} ms")
    if not outcome.answered:
        missed.append("nobody was answered")
    return missed


def _show(outcomes: list[Outcome]) -> None:
    table = Table(title="Faults")
    for name in (
        "fault",
        "held s",
        "answered",
        "broken",
        "lost",
        "twice",
        "findings",
        "p99 ms",
        "in it",
        "back s",
    ):
        table.add_column(name, justify="left" if name == "fault" else "right")
    for one in outcomes:
        counts = (one.answered, one.broken, one.lost, one.twice, one.findings)
        times = (one.p99_ms, one.p99_fault_ms, one.caught_up_s)
        told = ["-" if value is None else f"{value:.1f}" for value in times]
        table.add_row(one.name, f"{one.held_s:.1f}", *map(str, counts), *told)
    console = Console(highlight=False)
    console.width = max(console.width, 120)
    console.print(table)
    for one in outcomes:
        for note in filter(None, one.notes):
            console.print(f"{one.name}: {note}", markup=False)


if __name__ == "__main__":
    main()
