"""The benchmark's results, for a terminal and for the docs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.metering.course import LENGTHS_MS
from benchmarks.metering.sampler import Sampled

WIDTH = 110

METHODS = {
    "ours": "joulegate, activity known, lag calibrated",
    "ours_no_lag": "joulegate, activity known, lag not calibrated",
    "lines": "joulegate, activity not known, lag calibrated",
    "zeus": "Zeus",
}


@dataclass(frozen=True)
class Errors:
    """Of one method at one length of window: |given - true| / true."""

    method: str
    length_ms: int
    windows: int
    mean: float
    p95: float
    worst: float


def errors(method: str, length_ms: int, given_uj: Sequence[float], true_uj: Sequence[float]) -> Errors:
    off = np.abs(np.asarray(given_uj) - np.asarray(true_uj)) / np.asarray(true_uj)
    return Errors(
        method, length_ms, len(off), float(off.mean()), float(np.percentile(off, 95)), float(off.max())
    )


def show(rows: list[Errors], samples: list[Sampled], lag_ms: float) -> None:
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(width=WIDTH, highlight=False)
    table = Table(title="Mean error of the energy of one request (95th percentile)")
    table.add_column("method")
    for length in LENGTHS_MS:
        count = next(row.windows for row in rows if row.length_ms == length)
        table.add_column(f"{length:,} ms (n={count})", justify="right")
    for cells in _cells(rows):
        table.add_row(*cells)
    console.print(table)
    console.print(f"lag of the counter as calibrated before: {lag_ms:.1f} ms")
    for line in _sampler_lines(samples):
        console.print(line)


def _cells(rows: list[Errors]) -> list[list[str]]:
    found = []
    for method, title in METHODS.items():
        mine = {row.length_ms: row for row in rows if row.method == method}
        if mine:
            found.append([title, *(f"{mine[n].mean:.2%} ({mine[n].p95:.2%})" for n in LENGTHS_MS)])
    return found


def _sampler_lines(samples: list[Sampled]) -> list[str]:
    return [
        f"the sampler, 8 GPUs, {'beside a process that burns a core' if s.beside_burner else 'alone'}: "
        f"{s.core_share:.2%} of a core; between reads of a GPU p50 {s.gap_p50_ms:.1f} ms, "
        f"p95 {s.gap_p95_ms:.1f} ms, longest {s.gap_max_ms:.1f} ms"
        for s in samples
    ]


def page(rows: list[Errors], samples: list[Sampled], lag_ms: float, zeus: str, today: date) -> str:
    """docs/meters-errors.md."""
    heads = [f"{n:,} ms" for n in LENGTHS_MS]
    counts = [next(row.windows for row in rows if row.length_ms == n) for n in LENGTHS_MS]
    lines = [f"| {' | '.join(cells)} |" for cells in _cells(rows)]
    return "\n".join(
        [
            "# Energy over short windows",
            "",
            f"Made by `python -m benchmarks.meters --full` on {today.isoformat()}; do not edit.",
            "",
            "One request at a time on each of four simulated H100s, 400 to 690 W over 110 W idle, its power",
            "wandering by up to a tenth; counters with a period of 100 ms, 3 ms of jitter and 20 ms of lag.",
            "The truth is what the simulated board drew. joulegate reads each 30 ms and knows when requests",
            f"run. Zeus ({zeus}) reads the same counters at the same time, where a window begins and ends;",
            "its error is against the truth of its own window. No real GPU has been measured.",
            "",
            f"Mean of |given - true| / true over {', '.join(map(str, counts))} windows; in brackets the 95th",
            "percentile.",
            "",
            f"| method | {' | '.join(heads)} |",
            f"|---|{'---:|' * len(heads)}",
            *lines,
            "",
            f"The lag was calibrated before the windows, by the GPU check's own means: {lag_ms:.1f} ms.",
            "",
            "## The sampler",
            "",
            *(f"- {line[0].upper()}{line[1:]}." for line in _sampler_lines(samples)),
            "",
            "Measured on a machine with two cores that did other work as well.",
            "",
        ]
    )


def as_dicts(rows: list[Errors]) -> list[dict[str, object]]:
    return [asdict(row) for row in rows]
