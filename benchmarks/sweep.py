"""How near is the simulator to the paper? Its sweeps (arXiv 2601.22076) in virtual time, through the ledger.

    python -m benchmarks.sweep            two rungs of every ladder, the ledger where a run is short
    python -m benchmarks.sweep --full     all rungs, every run through the ledger; writes docs/sweep.md
    python -m benchmarks.sweep --only Llama-3.1-8B
    python -m benchmarks.sweep --part task-type    one headline result from whole ladders: task-type,
                                                   utilisation, fp8 or gpus
    python -m benchmarks.sweep --part limits       what the load generator holds on one core

The last line is one JSON object. Exit status 1 where an aim is missed (report.py, told.py and headlines.py in
benchmarks/sweeps). All seeds are fixed.
"""

from __future__ import annotations

import json
import math
import sys
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path

import click

from benchmarks.sweeps import limits, report
from benchmarks.sweeps.headlines import PARTS, headlines, needed
from benchmarks.sweeps.report import Results
from benchmarks.sweeps.rungs import Rung, by_card, measured
from simulator.profiles import Point, Profile, profiles

QUICK_RUNGS = (8, 64)
WORKERS = 2
QUICK_GPU_S = 80.0
"""GPUs x seconds up to which a quick run goes through the ledger."""

DOCS = Path(__file__).parents[1] / "docs"


@click.command(help=__doc__)
@click.option("--full", is_flag=True, help="All rungs, all through the ledger; write the published tables.")
@click.option("--only", default="", help="Only models whose name contains this.")
@click.option("--part", type=click.Choice([*PARTS, "limits"]), help="Only this, with its tables.")
def main(full: bool, only: str, part: str | None) -> None:
    if part == "limits":
        told = limits.show(*limits.measure())
        print(json.dumps(told))
        sys.exit(0 if told["met"] else 1)
    todo = [
        (profile, point)
        for profile in profiles().values()
        for point in profile.points
        if only in profile.model
        and (part is None or needed(part, (*profile.key, point.max_num_seqs)))
        and (full or part is not None or point.max_num_seqs in QUICK_RUNGS)
    ]
    if not todo:
        raise click.UsageError(f"no model's name contains {only!r}")
    results = sweep(todo, math.inf if full else QUICK_GPU_S, full or part is not None, part)
    report.show(results, part)
    if full and not only and part is None:
        (DOCS / "sweep.md").write_text(report.page(results, datetime.now(UTC).date()))
    missed = results.missed
    print(
        json.dumps(
            {"benchmark": "sweep", "full": full, "met": not missed, "missed": missed, **results.as_dict()}
        )
    )
    sys.exit(1 if missed else 0)


def sweep(
    todo: list[tuple[Profile, Point]], ledger_gpu_s: float, whole: bool, part: str | None = None
) -> Results:
    """Each rung in one of WORKERS processes; what comes out does not depend on who computed it.

    For a `part` of the headlines nothing is computed by card.
    """
    given: list[Rung] = []
    left_out: list[Rung] = []
    skipped = 0
    with ProcessPoolExecutor(WORKERS, mp_context=get_context("spawn")) as pool:
        tries = [(profile, point, ledger_gpu_s, part is None) for profile, point in todo]
        for done, (rung, card) in enumerate(pool.map(_both, tries, chunksize=1), 1):
            given.append(rung)
            if card is not None:
                left_out.append(card)
            else:
                skipped += 1
            if whole:
                print(f"{done} of {len(todo)} rungs", file=sys.stderr, flush=True)
    keys = [(*rung.profile.key, rung.point.max_num_seqs) for rung in given]
    published = {key: rung.point.joules_per_token for key, rung in zip(keys, given, strict=True)}
    simulated = {key: rung.joules_per_token for key, rung in zip(keys, given, strict=True)}
    answers = {key: rung.profile.answer_tokens for key, rung in zip(keys, given, strict=True)}
    found = headlines(published, simulated, answers, whole)
    return Results(given, left_out, skipped, [line for line in found if part in (None, line.part)])


def _both(task: tuple[Profile, Point, float, bool]) -> tuple[Rung, Rung | None]:
    profile, point, ledger_gpu_s, card = task
    return measured(profile, point, ledger_gpu_s), by_card(profile, point) if card else None


if __name__ == "__main__":
    main()
