"""The paper's table of LLM runs, as its authors publish it (CSV), and its histograms of answer lengths.

Only `benchmarks.sweeps.fit` reads it: what the project needs of it is in simulator/profiles and loadgen.
"""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from loadgen.lengths import ANY, TASKS

PARTS = 20


@dataclass(frozen=True, slots=True)
class Row:
    """One run. `answer_tokens` is the mean length of its answers; `itl_ms` the median time between tokens."""

    model: str
    task: str
    gpu: str
    gpus: int
    max_num_seqs: int
    batch: float
    tokens_per_s: float
    joules_per_token: float
    answer_tokens: float
    itl_ms: float

    @property
    def key(self) -> tuple[str, str, int, str]:
        return self.model, self.gpu, self.gpus, self.task


def read_rows(path: Path) -> list[Row]:
    names = {task.paper_name: task.name for task in TASKS.values()}
    with path.open(newline="") as file:
        return [
            Row(
                model=row["model_id"],
                task=names[row["task"]],
                gpu=row["gpu_model"].lower(),
                gpus=int(row["num_gpus"]),
                max_num_seqs=int(row["max_num_seqs"]),
                batch=float(row["avg_batch_size"]),
                tokens_per_s=float(row["output_throughput_tokens_per_sec"]),
                joules_per_token=float(row["energy_per_token_joules"]),
                answer_tokens=float(row["avg_output_len"]),
                itl_ms=float(row["median_itl_ms"]),
            )
            for row in csv.DictReader(file)
        ]


def grouped(rows: list[Row]) -> dict[tuple[str, str, int, str], list[Row]]:
    """Rows of one ladder together, by max_num_seqs; of two runs at one rung the last."""
    groups: dict[tuple[str, str, int, str], dict[int, Row]] = defaultdict(dict)
    for row in rows:
        groups[row.key][row.max_num_seqs] = row
    return {key: [ladder[rung] for rung in sorted(ladder)] for key, ladder in sorted(groups.items())}


def read_lengths(path: Path) -> dict[str, dict[str, list[float]]]:
    """Mean length of each twentieth of the answers, by task (our name) and model, and over all models."""
    loaded = json.loads(path.read_text())
    tasks: dict[str, dict[str, list[float]]] = {}
    for task in TASKS.values():
        models = {name: _parts(entry) for name, entry in sorted(loaded[task.paper_name].items())}
        everyone = np.mean(list(models.values()), axis=0).round(1).tolist()
        tasks[task.name] = {ANY: everyone, **models}
    return tasks


def _parts(histogram: dict[str, list[float]]) -> list[float]:
    """Means of the twentieths of a histogram, its bins taken as evenly filled."""
    edges, counts = np.array(histogram["bins"]), np.array(histogram["counts"], float)
    reached = np.concatenate([[0.0], np.cumsum(counts)]) / counts.sum()
    fine = np.interp((np.arange(PARTS * 50) + 0.5) / (PARTS * 50), reached, edges)
    means: list[float] = fine.reshape(PARTS, 50).mean(axis=1).round(1).tolist()
    return means
