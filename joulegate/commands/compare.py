"""`joulegate compare`: what changed between two sweeps."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from joulegate.sweep.compare import Change, Comparison, compare
from joulegate.sweep.plan import SweepError
from joulegate.sweep.results import load

METHOD = (
    "Changes are new / old - 1. Intervals are 95 %, by bootstrap (2000 draws): of blocks of consecutive "
    "seconds for J/token, tokens and power, of requests for all else. * marks changes whose interval leaves "
    "out 0."
)


@click.command()
@click.argument("old", type=click.Path(path_type=Path))
@click.argument("new", type=click.Path(path_type=Path))
@click.option("--all", "every", is_flag=True, help="Also changes that may be chance.")
@click.option("--json", "as_json", is_flag=True, help="Everything as JSON.")
@click.option(
    "--fail-above", type=float, help="Exit status 1 where J/token surely rose by more, such as 0.05."
)
def command(old: Path, new: Path, every: bool, as_json: bool, fail_above: float | None) -> None:
    """Compare the sweeps in two directories, level by level."""
    try:
        found = compare(load(old), load(new))
    except SweepError as error:
        raise click.ClickException(str(error)) from error
    if not found.changes:
        raise click.ClickException("the two have no level in common")
    if as_json:
        changes = [{**asdict(change), "sure": change.sure} for change in found.changes]
        click.echo(json.dumps({**asdict(found), "changes": changes, "method": METHOD}, indent=1))
    else:
        _show(found, every)
    if fail_above is not None and any(_worse(change, fail_above) for change in found.changes):
        raise click.exceptions.Exit(1)


def _worse(change: Change, above: float) -> bool:
    return change.figure == "J/token" and change.interval is not None and change.interval.low > above


def _show(found: Comparison, every: bool) -> None:
    console = Console()
    if not console.is_terminal:
        console = Console(width=110)
    for name, before, after in found.different:
        console.print(f"{name}: {before or '-'} -> {after or '-'}", markup=False)
    for levels, whose in ((found.only_old, "old"), (found.only_new, "new")):
        if levels:
            console.print(f"only in the {whose} one: {', '.join(f'{level:g}' for level in levels)}")
    table = Table(show_edge=False)
    for name in ("level", "figure", "old", "new", "change", "95 % interval", ""):
        table.add_column(name, justify="left" if name in ("figure", "") else "right")
    shown = [change for change in found.changes if every or change.sure or change.figure == "J/token"]
    for change in shown:
        table.add_row(*_row(change))
    console.print(table)
    hidden = len(found.changes) - len(shown)
    if hidden:
        console.print(f"{hidden} more that may be chance: --all")
    console.print(METHOD, style="dim")


def _row(change: Change) -> list[str]:
    colour = {True: "green", False: "red", None: "bold"}[change.better] if change.sure else "dim"
    moved = "-" if change.change is None else f"[{colour}]{change.change:+.1%}[/{colour}]"
    low_high = change.interval
    interval = "-" if low_high is None else f"{low_high.low:+.1%} to {low_high.high:+.1%}"
    return [
        f"{change.level:g}",
        f"{change.figure} ({change.unit})",
        f"{change.old:.4g}",
        f"{change.new:.4g}",
        moved,
        interval,
        "*" if change.sure else "",
    ]
