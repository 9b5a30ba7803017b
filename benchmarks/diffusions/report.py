"""The results: figures and what was missed, as tables for a terminal and as a page for the docs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from statistics import mean, median
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.diffusions.judge import EQUAL, OURS, PEERS, Score
from benchmarks.diffusions.ladder import Rung
from benchmarks.judge.score import Errors

COMMAND = "python -m benchmarks.diffusion --full"
JOULES_AIM = 0.10
"""Largest error of joules per image or video at any batch size."""

RATIO_AIM = 0.10
"""Largest error of the ratio of a video's joules to an image's, against that of the published points."""

RATIO_GPU = "b200"
"""As in the paper: the least energy of each model on B200s."""

Rows = list[list[str]]


@dataclass(frozen=True, slots=True)
class Results:
    rungs: list[Rung]
    scores: list[Score]

    @property
    def missed(self) -> list[str]:
        missed = [
            f"{' '.join(map(str, rung.profile.key))} batch {rung.point.batch}: {rung.errors[1]:+.1%}"
            for rung in self.rungs
            if abs(rung.errors[1]) > JOULES_AIM
        ]
        missed += [f"books of {rung.profile.key}" for rung in self.rungs if rung.balanced is False]
        for name, (told, here) in self.ratios().items():
            if abs(here / told - 1) > RATIO_AIM:
                missed.append(f"video to image, {name}: {here:.0f} for {told:.0f}")
        return missed + [f"{score.scenario.name}: {line}" for score in self.scores for line in score.missed]

    def ratios(self) -> dict[str, tuple[float, float]]:
        """A video's joules over an image's on B200, each model at its least: published here, simulated."""
        if not self.rungs:
            return {}
        ways: dict[str, Callable[[list[float]], float]] = {"of medians": median, "of means": mean}
        return {name: (self._ratio(way, False), self._ratio(way, True)) for name, way in ways.items()}

    def _ratio(self, way: Callable[[list[float]], float], simulated: bool) -> float:
        least: dict[str, dict[str, float]] = {"image": {}, "video": {}}
        for rung in self.rungs:
            if rung.profile.gpu == RATIO_GPU:
                models = least[rung.profile.card.kind]
                joules = rung.joules_each if simulated else rung.point.joules_each
                models[rung.profile.model] = min(joules, models.get(rung.profile.model, joules))
        return way(list(least["video"].values())) / way(list(least["image"].values()))

    def errors(self, kind: str) -> list[list[float]]:
        """Median, 90th percentile and largest error of time and of joules, as shares."""
        sizes = np.abs([rung.errors for rung in self.rungs if rung.profile.card.kind == kind])
        return [[float(np.percentile(column, at)) for at in (50, 90, 100)] for column in sizes.T]

    def as_dict(self) -> dict[str, Any]:
        kinds = {rung.profile.card.kind for rung in self.rungs}
        return {
            "batches": len(self.rungs),
            "through_ledger": sum(rung.balanced is not None for rung in self.rungs),
            "errors": {kind: np.round(self.errors(kind), 4).tolist() for kind in sorted(kinds)},
            "video_to_image": {name: np.round(pair, 1).tolist() for name, pair in self.ratios().items()},
            "scenarios": [score.as_dict() for score in self.scores],
        }


def show(results: Results) -> None:
    console = Console()
    if not console.is_terminal:
        console = Console(width=150)
    for title, head, rows in _tables(results):
        table = Table(title=title)
        for name in head:
            table.add_column(name, justify="left" if name == head[0] else "right")
        for row in rows:
            table.add_row(*row)
        if rows:
            console.print(table)


def page(results: Results, day: date, ledger_gpu_s: float) -> str:
    """docs/diffusion-errors.md."""
    parts = [PREFACE.format(command=COMMAND, day=day)]
    for title, head, rows in _tables(results):
        parts.append(f"## {title}\n")
        if title in NOTES:
            slow = sum(rung.balanced is None for rung in results.rungs)
            parts.append(NOTES[title].format(slow=slow, most=ledger_gpu_s))
        parts.append("| " + " | ".join(head) + " |")
        parts.append("|---" + "|---:" * (len(head) - 1) + "|")
        parts += ["| " + " | ".join(row) + " |" for row in rows]
        parts.append("")
    return "\n".join(parts)


PREFACE = """# Images and videos: errors on the simulator

Written by `{command}` on {day}; do not edit. Everything runs in virtual time on
the simulated GPUs ([how](simulator.md#diffusion-models)); requests, jobs and counter reads go through the
same ledger as live. No figure here was measured on a GPU: they say how near the simulator is to the paper
(arXiv 2601.22076), and whether the ledger finds the simulator's truth again.
"""

AGAINST, ATTRIBUTION = "Against the paper's table", "Whose energy it is"
AGAINST_NOTE = """Joules per image or video, the ledger's figure against the published one at the same batch
size. The coefficients come from the same points: this is the error of a fit seen through server, queue and
ledger. Of {slow} batches that take more than {most:.0f} GPU-seconds it is the simulator's own figure. Aim:
each within 10 %.
"""
ATTRIBUTION_NOTE = """Error of a job's joules against the truth: median / nine in ten / worst tenant's sum.
`overlap`: the times that the server tells, summed, over the time in which it worked. Aims: 5 / 20 / 10 %
where one job runs at a time, 10 / 30 / 10 % in batches and beside a language model. Without an aim: batches
that nobody tells of (`at_once` in the configuration does), and jobs of several sizes, of which only some can
run together. Clients leave at a random moment: a job that ran goes on, one that waited costs nothing; the
counts are vLLM-Omni's, which forget who left.
"""
NOTES = {AGAINST: AGAINST_NOTE, ATTRIBUTION: ATTRIBUTION_NOTE}


def _tables(results: Results) -> list[tuple[str, list[str], Rows]]:
    peers = list(PEERS)
    return [
        (
            AGAINST,
            ["kind", "batches", "time: median / p90 / largest", "J: median / p90 / largest"],
            _fit(results),
        ),
        ("A video against an image", ["ratio on B200", "published", "simulated"], _ratios(results)),
        (ATTRIBUTION, ["scenario", "jobs", "overlap", OURS, *peers], _scores(results.scores)),
        ("By model", ["model", "GPU", "GPUs", "batches", "J each", "worst error"], _models(results.rungs)),
    ]


def _fit(results: Results) -> Rows:
    rows = []
    for kind in ("image", "video"):
        count = sum(rung.profile.card.kind == kind for rung in results.rungs)
        if count:
            rows.append([kind, str(count), *(_shares(errors) for errors in results.errors(kind))])
    return rows


def _ratios(results: Results) -> Rows:
    return [[name, f"{told:.0f}", f"{here:.0f}"] for name, (told, here) in results.ratios().items()]


def _scores(scores: list[Score]) -> Rows:
    rows = []
    for score in scores:
        aim = "" if score.scenario.aim else " (no aim)"
        told = [_errors(score.methods.get(name)) for name in (OURS, *PEERS)]
        rows.append([score.scenario.title + aim, str(score.judged), f"{score.overlap:.1f}", *told])
        if score.chats:
            others = ["-"] * (len(PEERS) - 1)
            both = [_errors(score.chats[name]) for name in (OURS, EQUAL)]
            rows.append(["the chats beside them", "", "", *both, *others])
    return rows


def _models(rungs: list[Rung]) -> Rows:
    ladders: dict[tuple[str, str, int], list[Rung]] = {}
    for rung in rungs:
        ladders.setdefault(rung.profile.key, []).append(rung)
    rows = []
    for (model, gpu, gpus), ladder in ladders.items():
        worst = max(ladder, key=lambda rung: abs(rung.errors[1]))
        joules = f"{min(r.joules_each for r in ladder):,.0f} to {max(r.joules_each for r in ladder):,.0f}"
        batches = ", ".join(str(rung.point.batch) for rung in ladder)
        rows.append([model, gpu, str(gpus), batches, joules, f"{worst.errors[1]:+.1%}"])
    return rows


def _errors(errors: Errors | None) -> str:
    return "-" if errors is None else _shares([errors.median, errors.p90, errors.tenant])


def _shares(values: list[float]) -> str:
    return (
        " / ".join(f"{100 * value:.1f}" if value < 0.1 else f"{100 * value:.0f}" for value in values) + " %"
    )
