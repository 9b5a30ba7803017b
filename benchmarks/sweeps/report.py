"""The sweep's results: figures and what was missed, as tables for a terminal and as a page for the docs."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.sweeps.headlines import Headline
from benchmarks.sweeps.rungs import Rung

COMMAND = "python -m benchmarks.sweep --full"
MEDIAN, P90, LEFT_OUT = 0.05, 0.15, 0.25
"""Aims: errors against the published points, as shares; LEFT_OUT is for joules per token by card alone."""


@dataclass(frozen=True, slots=True)
class Results:
    given: list[Rung]
    left_out: list[Rung]
    skipped: int
    """Rungs that by the card alone do not fit into memory."""
    headlines: list[Headline]

    def errors(self, rungs: list[Rung]) -> dict[str, list[float]]:
        """Median and 90th percentile of tokens per second and joules per token, as shares."""
        errors = np.abs([rung.errors for rung in rungs])
        return {
            name: [float(np.median(column)), float(np.percentile(column, 90))]
            for name, column in zip(("tokens_per_s", "joules_per_token"), errors.T, strict=True)
        }

    @property
    def settled(self) -> list[Rung]:
        """Those that went through the ledger."""
        return [rung for rung in self.given if rung.books is not None]

    @property
    def missed(self) -> list[str]:
        missed: list[str] = []
        for name, (median, p90) in self.errors(self.given).items():
            if median > MEDIAN:
                missed.append(f"{name}: median error {median:.1%}")
            if p90 > P90:
                missed.append(f"{name}: 90th percentile {p90:.1%}")
        if self.left_out and (median := self.errors(self.left_out)["joules_per_token"][0]) > LEFT_OUT:
            missed.append(f"left out: median error {median:.1%}")
        missed += [
            f"books of {rung.profile.key}" for rung in self.settled if rung.books and not rung.books.met
        ]
        missed += [line.claim for line in self.headlines if line.met is False]
        return missed

    def as_dict(self) -> dict[str, Any]:
        books = [rung.books for rung in self.settled if rung.books]
        return {
            "rungs": len(self.given),
            "errors": self.errors(self.given),
            "left_out_rungs": len(self.left_out),
            "left_out_errors": self.errors(self.left_out) if self.left_out else None,
            "through_ledger": len(books),
            "requests": sum(book.requests for book in books),
            "books_exact": sum(book.exact for book in books),
            "meter_off_max": max((book.meter_off for book in books), default=None),
            "headlines": [
                {"claim": h.claim, "paper": h.paper, "points": h.points, "simulated": h.simulated, "of": h.of}
                for h in self.headlines
            ],
        }


def show(results: Results, part: str | None = None) -> None:
    """Print all tables, or that of one part of the headlines."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=110)
    for title, head, rows in _tables(results):
        if part is not None and title not in (HEADLINES, BOOKS):
            continue
        table = Table(title=title)
        for name in head:
            table.add_column(name, justify="left" if name == head[0] else "right")
        for row in rows:
            table.add_row(*row)
        console.print(table)


def page(results: Results, day: date) -> str:
    """docs/sweep.md."""
    parts = [PREFACE.format(command=COMMAND, day=day)]
    for title, head, rows in _tables(results):
        parts.append(f"## {title}\n")
        parts.append("| " + " | ".join(head) + " |")
        parts.append("|---" + "|---:" * (len(head) - 1) + "|")
        parts += ["| " + " | ".join(row) + " |" for row in rows]
        parts.append("")
    return "\n".join(parts)


PREFACE = """# The paper's sweeps on the simulator

Written by `{command}` on {day}. Each rung of each ladder of arXiv 2601.22076 that
the simulator has a profile of is served in virtual time, its events and counter reads go through the same
ledger as live, and what comes out stands beside the published measurement at the same `max_num_seqs`. Nothing
here was measured on a GPU: it says how faithful the simulator is to the paper, and that the books balance.

The errors of families given are those of a fit seen through scheduler and ledger: its coefficients come from
the same points. Models left out: each architecture by its card alone, with constants fitted to all others;
only the lengths of answers are its own. A headline counts as reproduced within 15 % of what the same
published points give; the paper's own figure is over all its models, eight of which are not here. B200 over
H100 is shown without an aim: a ratio of two ladders' cheapest rungs is as noisy as those two points.
[The formulas](simulator.md#the-physics).

One headline by itself, in a minute or two: `python -m benchmarks.sweep --part task-type`, or `utilisation`,
`fp8`, `gpus`. Images and videos made by diffusion models: `python -m benchmarks.diffusion`. The same ladders
in real time, through the proxy: `joulegate sweep` ([loadgen.md](loadgen.md#a-sweep)).
"""

Rows = list[list[str]]

BOOKS, HEADLINES = "Books", "Headline results"


def _tables(results: Results) -> list[tuple[str, list[str], Rows]]:
    return [
        ("Against the published points", ["what", "aim", "rungs", "tokens/s", "J/token"], _errors(results)),
        (BOOKS, ["what", "aim", "here"], _books(results)),
        (
            HEADLINES,
            ["claim", "paper", "its points here", "simulated", "of", "within 15 %"],
            _headlines(results),
        ),
        (
            "By model",
            ["model", "GPUs", "task", "rungs", "tokens/s", "J/token", "by card: J/token"],
            _models(results),
        ),
    ]


def _errors(results: Results) -> Rows:
    rows = [
        [
            "families given: median / p90",
            f"{MEDIAN:.0%} / {P90:.0%}",
            str(len(results.given)),
            *_pair(results, results.given),
        ]
    ]
    if results.left_out:
        count = str(len(results.left_out))
        rows.append(
            [
                "left out, by card alone: median / p90",
                f"{LEFT_OUT:.0%} (J)",
                count,
                *_pair(results, results.left_out),
            ]
        )
    if results.skipped:
        rows.append(["by card they do not fit into memory", "-", str(results.skipped), "-", "-"])
    return rows


def _pair(results: Results, rungs: list[Rung]) -> list[str]:
    return [f"{median:.1%} / {p90:.1%}" for median, p90 in results.errors(rungs).values()]


def _books(results: Results) -> Rows:
    figures = results.as_dict()
    off = figures["meter_off_max"]
    return [
        ["runs through the ledger", "all", f"{figures['through_ledger']} of {figures['rungs']}"],
        ["requests settled", "-", f"{figures['requests']:,}"],
        ["sum of requests = books, in whole uJ", "all", str(figures["books_exact"])],
        ["books against the GPUs' true energy, worst", "1e-06", "-" if off is None else f"{off:.1e}"],
    ]


def _headlines(results: Results) -> Rows:
    return [
        [
            h.claim,
            "-" if h.paper is None else f"{h.paper:.2f}",
            f"{h.points:.2f}",
            f"{h.simulated:.2f}",
            str(h.of),
            {True: "yes", False: "NO", None: f"({h.simulated / h.points - 1:+.0%})"}[h.met],
        ]
        for h in results.headlines
    ]


def _models(results: Results) -> Rows:
    rows: Rows = []
    for key in dict.fromkeys(rung.profile.key for rung in results.given):
        own = [rung for rung in results.given if rung.profile.key == key]
        card = [rung for rung in results.left_out if rung.profile.key == key]
        errors = [f"{median:.1%}" for median, _ in results.errors(own).values()]
        by_card = f"{results.errors(card)['joules_per_token'][0]:.0%}" if card else "-"
        model, gpu, gpus, task = key
        rows.append([model.split("/")[1], f"{gpus} {gpu.upper()}", task, str(len(own)), *errors, by_card])
    return rows
