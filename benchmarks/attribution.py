"""How wrong are joules per request? On simulated traces with known truth, beside simpler methods.

    python -m benchmarks.attribution                 every scenario, a minute of judged requests each
    python -m benchmarks.attribution --full          ten minutes each; writes docs/attribution-errors.md
    python -m benchmarks.attribution --only 8b-half  one scenario

The last line is one JSON object. Exit status 1 where an aim is missed (benchmarks/traces/scenario.py).
All seeds are fixed: the same versions of numpy and scipy give the same figures.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import click

from benchmarks.judge import plot, report
from benchmarks.judge.score import Score, judge
from benchmarks.traces.scenario import SCENARIOS

QUICK_S = 60.0
FULL_S = 600.0
FULL_SEEDS = 100_000
"""Added to the seeds under --full: what is published was not looked at while something was tried."""

DOCS = Path(__file__).parents[1] / "docs"


@click.command(help=__doc__)
@click.option("--full", is_flag=True, help="Ten minutes of judged requests each; write the published table.")
@click.option("--only", multiple=True, type=click.Choice([s.name for s in SCENARIOS]), help="Only these.")
def main(full: bool, only: tuple[str, ...]) -> None:
    measured_s = FULL_S if full else QUICK_S
    scores: list[Score] = []
    for scenario in SCENARIOS:
        if not only or scenario.name in only:
            print(f"{scenario.title} ...", file=sys.stderr, flush=True)
            seed = scenario.seed + (FULL_SEEDS if full else 0)
            scores.append(judge(replace(scenario, seed=seed), measured_s))
    report.show(scores)
    if full and not only:
        write_docs(scores, measured_s, DOCS)
    missed = {score.scenario.name: score.missed for score in scores if score.missed}
    result = {
        "benchmark": "attribution",
        "measured_s": measured_s,
        "met": not missed,
        "missed": missed,
        "scenarios": [score.as_dict() for score in scores],
    }
    print(json.dumps(result))
    sys.exit(1 if missed else 0)


def write_docs(scores: list[Score], measured_s: float, docs: Path) -> None:
    """The page, the picture, and the short table in attribution.md."""
    today = datetime.now(UTC).date()
    (docs / "img").mkdir(exist_ok=True)
    (docs / "attribution-errors.md").write_text(report.page(scores, measured_s, today))
    (docs / "img" / "attribution-errors.svg").write_text(plot.picture(scores))
    attribution = docs / "attribution.md"
    text = attribution.read_text()
    body = report.section(scores, today)
    attribution.write_text(report.replace_section(text, "## Error on simulated traces", body))


if __name__ == "__main__":
    main()
