"""The results as tables for a terminal and as a page for the docs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.diagnoses.check import Result
from benchmarks.diagnoses.filling import QUESTION, Filled, Tried

COMMAND = "python -m benchmarks.diagnosis --full"
COLUMNS = ("scenario", "seed", "came first", "saving, predicted", "true", "off by", "of the energy")


def _row(one: Result) -> list[str]:
    predicted = (
        "unknown" if one.predicted_j is None else f"{one.predicted_j:,.0f} J ± {one.sigma_j or 0:,.0f}"
    )
    true = "-" if one.true_j is None else f"{one.true_j:,.0f} J"
    part = "-" if one.true_j is None else f"{one.true_j / one.drawn_j:.0%}"
    off = "-" if one.off is None else f"{one.off:+.1%}"
    return [one.name, str(one.seed), one.first, predicted, true, off, part]


def show(results: Sequence[Result], filled: Filled | None) -> None:
    console = Console(highlight=False, width=120)
    table = Table(*COLUMNS, title="Planted causes")
    for one in results:
        table.add_row(*_row(one))
    console.print(table)
    if filled is not None:
        for line in _capacity(filled):
            console.print(line)


def _capacity(filled: Filled) -> list[str]:
    way = filled.answer.most
    if way is None:
        return ["capacity: no answer"]
    lines = [
        f"Asked: most requests of this mix with {QUESTION.power_w:,.0f} W, TTFT of {QUESTION.ttft_ms:.0f} ms "
        f"and ITL of {QUESTION.itl_ms:.0f} ms at the {QUESTION.percent:.0f}th percentile.",
        f"Answer: {way.per_s:.1f} requests/s on {way.replicas} replicas with max_num_seqs "
        f"{way.max_num_seqs}: {way.power_w:,.0f} W, TTFT {way.ttft_ms or 0:.0f} ms, "
        f"ITL {way.itl_ms or 0:.1f} ms; {way.held_by or 'nothing'} forbids more.",
    ]
    lines += [
        f"The simulator {where}: {_tried(one)}"
        for where, one in (("at it", filled.at), ("at a tenth more", filled.above))
        if one is not None
    ]
    return lines


def _tried(one: Tried) -> str:
    broken = f"breaks {', '.join(one.broken)}" if one.broken else "all limits hold"
    return (
        f"{one.per_s:.1f} requests/s, {one.power_w:,.0f} W, TTFT {one.ttft_ms:.0f} ms, "
        f"ITL {one.itl_ms:.1f} ms: {broken}"
    )


def page(results: Sequence[Result], filled: Filled, today: date) -> str:
    lines = [
        "# Diagnosis and capacity, held against the simulator",
        "",
        f"Written by `{COMMAND}` on {today}. What is planted, how a saving is predicted and what is true:",
        "[diagnosis.md](diagnosis.md#held-against-the-simulator). Llama 3.1 8B on simulated H100s; nothing",
        "here was checked on a real GPU.",
        "",
        "| " + " | ".join(COLUMNS) + " |",
        "|" + "---|" * len(COLUMNS),
        *("| " + " | ".join(_row(one)) + " |" for one in results),
        "",
        "## Capacity",
        "",
        *(f"- {line}" for line in _capacity(filled)),
        "",
    ]
    return "\n".join(lines)


def as_dict(results: Sequence[Result], filled: Filled | None) -> dict[str, Any]:
    scenarios = [
        {
            "name": one.name,
            "seed": one.seed,
            "first": one.first,
            "predicted_j": one.predicted_j,
            "true_j": one.true_j,
            "off": one.off,
        }
        for one in results
    ]
    tried = {
        name: {"per_s": one.per_s, "power_w": one.power_w, "ttft_ms": one.ttft_ms, "itl_ms": one.itl_ms}
        for name, one in (() if filled is None else (("at", filled.at), ("above", filled.above)))
        if one is not None
    }
    return {"scenarios": scenarios, "capacity": tried}
