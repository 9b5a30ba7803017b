"""Images and videos: is the simulator near the paper, and does each job get its own joules? In virtual time.

    python -m benchmarks.diffusion            one GPU's ladders at two batch sizes, short scenarios
    python -m benchmarks.diffusion --full     all ladders and batch sizes, long scenarios; writes
                                              docs/diffusion-errors.md
    python -m benchmarks.diffusion --only serial     one scenario, no ladders

Ladders: joules per image and per video of the paper's models (arXiv 2601.22076), the ledger's figure beside
the published one. Scenarios: each job's joules against the simulator's truth, beside simpler methods. The
last line is one JSON object. Exit status 1 where an aim is missed (benchmarks/diffusions). All seeds are
fixed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path

import click

from benchmarks.diffusions import report
from benchmarks.diffusions.judge import Score, judge
from benchmarks.diffusions.ladder import Rung, climb
from benchmarks.diffusions.report import Results
from benchmarks.diffusions.scenarios import SCENARIOS, Scenario
from simulator.diffusion.profiles import DiffusionProfile, Point, profiles

WORKERS = 2
QUICK_S, FULL_S = 250.0, 1500.0
"""Length of a scenario; some last several times as long."""

QUICK_GPU_S, FULL_GPU_S = 30.0, 1000.0
"""GPUs x seconds of a batch up to which it goes through the ledger: the longest last for hours."""

FULL_SEEDS = 100_000
"""Added to the seeds under --full: what is published was not looked at while something was tried."""

DOCS = Path(__file__).parents[1] / "docs"


@click.command(help=__doc__)
@click.option("--full", is_flag=True, help="All batches and long scenarios; write the published tables.")
@click.option("--only", type=click.Choice([s.name for s in SCENARIOS]), help="Only this scenario.")
def main(full: bool, only: str | None) -> None:
    todo = [] if only else rungs_todo(full)
    ledger_gpu_s = FULL_GPU_S if full else QUICK_GPU_S
    scenarios = [scenario for scenario in SCENARIOS if only in (None, scenario.name)]
    with ProcessPoolExecutor(WORKERS, mp_context=get_context("spawn")) as pool:
        scores = pool.map(_judge, [(scenario, full) for scenario in scenarios])
        rungs = pool.map(_climb, [(profile, point, ledger_gpu_s) for profile, point in todo], chunksize=2)
        results = Results(_told(rungs, len(todo), full), list(scores))
    report.show(results)
    if full and not only:
        text = report.page(results, datetime.now(UTC).date(), ledger_gpu_s)
        (DOCS / "diffusion-errors.md").write_text(text)
    missed = results.missed
    last = {"benchmark": "diffusion", "full": full, "met": not missed, "missed": missed, **results.as_dict()}
    print(json.dumps(last))
    sys.exit(1 if missed else 0)


def rungs_todo(full: bool) -> list[tuple[DiffusionProfile, Point]]:
    """Quick: one GPU, the smallest and the largest batch."""
    chosen = [profile for profile in profiles().values() if full or profile.gpus == 1]
    return [
        (profile, point)
        for profile in chosen
        for point in (profile.points if full else (profile.points[0], profile.points[-1]))
    ]


def _told(rungs: Iterable[Rung], count: int, aloud: bool) -> list[Rung]:
    done: list[Rung] = []
    for rung in rungs:
        done.append(rung)
        if aloud and len(done) % 20 == 0:
            print(f"{len(done)} of {count} batches", file=sys.stderr, flush=True)
    return done


def _judge(task: tuple[Scenario, bool]) -> Score:
    scenario, full = task
    return judge(scenario, FULL_S if full else QUICK_S, FULL_SEEDS if full else 0)


def _climb(task: tuple[DiffusionProfile, Point, float]) -> Rung:
    return climb(*task)


if __name__ == "__main__":
    main()
