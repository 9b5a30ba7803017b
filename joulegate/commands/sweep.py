"""`joulegate sweep`: what a task costs at several numbers of requests in flight."""

from __future__ import annotations

import csv
import json
import platform
import time
from dataclasses import asdict, fields
from importlib.metadata import version
from pathlib import Path

import click
from rich.console import Console

from joulegate.sweep import level as levels_of
from joulegate.sweep.level import Level, Plan, SweepError
from joulegate.sweep.page import page
from simulator.profiles import Point, find


@click.command()
@click.option("--url", default="http://127.0.0.1:8080", show_default=True, help="A running joulegate.")
@click.option("--model", required=True, help="Name of the model to ask for.")
@click.option(
    "--task",
    type=click.Choice(["chat", "reasoning", "code"]),
    default="chat",
    show_default=True,
    help="What to ask.",
)
@click.option("--levels", default="1,2,4,8", show_default=True, help="Requests in flight, with commas.")
@click.option("--seconds", default=60.0, show_default=True, help="Per level, the warm-up included.")
@click.option(
    "--warm-up", "warm_up_s", default=15.0, show_default=True, help="Seconds left out of each level."
)
@click.option(
    "--like", default="", help="Hugging Face name whose answer lengths (and published points) to take."
)
@click.option(
    "--gpu", default="h100", show_default=True, help="Published points of which GPU to show: h100 or b200."
)
@click.option("--gpus", default=1, show_default=True, help="Published points on how many GPUs.")
@click.option("--longest", default=32_768, show_default=True, help="Longest answer in tokens.")
@click.option("--shorter", default=1.0, show_default=True, help="Prompts and answers so many times as long.")
@click.option("--seed", default=1, show_default=True, help="Of prompts and lengths.")
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("sweep"), show_default=True, help="Directory."
)
def command(
    url: str,
    model: str,
    task: str,
    levels: str,
    seconds: float,
    warm_up_s: float,
    like: str,
    gpu: str,
    gpus: int,
    longest: int,
    shorter: float,
    seed: int,
    out: Path,
) -> None:
    """Keep each number of requests of a task in flight for a while, and write what they cost.

    OUT gets results.json and results.csv, Locust's output and report.html. A level of the same plan that OUT
    has already is not run again.
    """
    plan = Plan(url, model, task, like, seconds, warm_up_s, longest, shorter, seed)
    wanted = _numbers(levels)
    out.mkdir(parents=True, exist_ok=True)
    results = out / "results.json"
    done = _done(results, plan)
    versions = {name: version(name) for name in ("joulegate", "locust")} | {
        "python": platform.python_version()
    }
    profile = find(like or model, gpu, gpus, task)
    points: tuple[Point, ...] = profile.points if profile else ()
    console = Console()
    for number in wanted:
        if number not in done:
            with console.status(f"{number} in flight, {seconds:g} s"):
                try:
                    done[number] = levels_of.run(plan, number, out)
                except SweepError as error:
                    raise click.ClickException(str(error)) from error
        _write(out, plan, done, versions, points)
        _say(console, done[number])
    console.print(f"{out}/report.html")


def _numbers(levels: str) -> list[int]:
    try:
        found = [int(part) for part in levels.split(",")]
    except ValueError as error:
        raise click.UsageError(f"--levels are numbers with commas, not {levels!r}") from error
    if not found or min(found) < 1:
        raise click.UsageError("--levels must be at least 1")
    return found


def _done(results: Path, plan: Plan) -> dict[int, Level]:
    """Levels that an earlier run of the same plan has left."""
    if not results.exists():
        return {}
    loaded = json.loads(results.read_text())
    if loaded["plan"] != asdict(plan):
        raise click.ClickException(f"{results.parent} has the results of another plan: take another --out")
    return {entry["in_flight"]: Level(**entry) for entry in loaded["levels"]}


def _write(
    out: Path, plan: Plan, done: dict[int, Level], versions: dict[str, str], points: tuple[Point, ...]
) -> None:
    levels = [done[number] for number in sorted(done)]
    entries = [asdict(level) for level in levels]
    written = {"plan": asdict(plan), "versions": versions, "written_at": time.time(), "levels": entries}
    (out / "results.json").write_text(json.dumps(written, indent=1) + "\n")
    with (out / "results.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, [field.name for field in fields(Level)])
        table.writeheader()
        table.writerows(entries)
    (out / "report.html").write_text(page(plan, levels, points, versions))


def _say(console: Console, level: Level) -> None:
    def figure(value: float | None) -> str:
        return "not measured" if value is None else f"{value:.4g}"

    console.print(
        f"{level.in_flight:>5} in flight: {level.tokens_per_s:8.1f} tokens/s, "
        f"{figure(level.joules_per_token)} J/token, {figure(level.joules_per_response)} J/response, "
        f"{level.requests} requests"
    )
