"""Does the diagnosis find a planted cause, does its saving come true, does the capacity answer hold?

    python -m benchmarks.diagnosis            each planted cause once, the capacity answer for two minutes
    python -m benchmarks.diagnosis --full     the causes with three seeds, the answer for ten minutes;
                                              writes docs/diagnosis-figures.md
    python -m benchmarks.diagnosis --only idle

All in virtual time on the simulator, told to a ledger event by event, stored in SQLite, diagnosed from there.
Aims: the planted cause comes first; its predicted saving is within 20 % of what the simulator gives when the
cause is removed; at the capacity answer limits and budget hold, and a tenth more load breaks one of them. The
last line is one JSON object; exit status 1 where an aim is missed. All seeds are fixed.
"""

from __future__ import annotations

import json
import sys
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path

import click

from benchmarks.diagnoses import report
from benchmarks.diagnoses.check import Result, check
from benchmarks.diagnoses.filling import FULL_S, QUICK_S, fill
from benchmarks.diagnoses.scenarios import scenarios

WORKERS = 2
FULL_SEEDS = (1, 2, 3)
PAGE = Path(__file__).parents[1] / "docs" / "diagnosis-figures.md"


@click.command(help=__doc__)
@click.option("--full", is_flag=True, help="Three seeds, longer runs; write the published tables.")
@click.option("--only", default="", help="Only scenarios whose name contains this, and no capacity.")
def main(full: bool, only: str) -> None:
    names = [one.name for one in scenarios(1) if only in one.name]
    if not names:
        raise click.UsageError(f"no scenario's name contains {only!r}")
    seeds = FULL_SEEDS if full else FULL_SEEDS[:1]
    with ProcessPoolExecutor(WORKERS, mp_context=get_context("spawn")) as pool:
        asked = None if only else pool.submit(fill, FULL_S if full else QUICK_S)
        results = list(pool.map(_checked, [(name, seed) for name in names for seed in seeds]))
        filled = None if asked is None else asked.result()
    report.show(results, filled)
    if full and not only and filled is not None:
        PAGE.write_text(report.page(results, filled, datetime.now(UTC).date()))
    missed = [line for result in results for line in result.missed]
    missed += [] if filled is None else filled.missed
    figures = report.as_dict(results, filled)
    print(
        json.dumps({"benchmark": "diagnosis", "full": full, "met": not missed, "missed": missed, **figures})
    )
    sys.exit(1 if missed else 0)


def _checked(task: tuple[str, int]) -> Result:
    name, seed = task
    return check(next(one for one in scenarios(seed) if one.name == name), seed)


if __name__ == "__main__":
    main()
