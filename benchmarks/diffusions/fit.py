"""Fits the simulator's diffusion profiles to the paper's table (arXiv 2601.22076) and writes them.

    python -m benchmarks.diffusions.fit DIFFUSION_CSV

The file is the authors' data. Written is simulator/profiles/diffusion.json; nothing else of it is kept. One
profile per model, GPU and number of GPUs; of several ways to spread a model over GPUs (Ulysses, ring) the one
that needs the least energy at the largest batch of most measurements. Takes about ten seconds.
"""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from simulator.cards import GPUS
from simulator.diffusion import profiles
from simulator.diffusion.cards import CARDS, DiffusionCard
from simulator.diffusion.physics import Coefficients, batch

SOURCE = "arXiv 2601.22076, Where Do the Joules Go? (public measurements: xDiT 0.4.5, H100 and B200)"
SHARPNESS = (1.0, 2.0, 4.0, 8.0)
WORTH = 0.01
"""A sharper form is taken where it makes the mean error and the largest of joules smaller by so much in
all."""

WEIGHTS = (1.0, 2.0)
"""How much errors of time and of joules pull."""

SOFT = 0.05
"""Relative error beyond which a point pulls by its size instead of its square."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Row:
    """One batch: its size, how long it took, joules per image or video; degrees of parallelism."""

    model: str
    gpu: str
    gpus: int
    layout: tuple[int, int]
    batch: int
    latency_s: float
    joules_each: float


def read_rows(path: Path) -> list[Row]:
    with path.open(newline="") as file:
        return [
            Row(
                model=row["model_id"],
                gpu=row["gpu_model"].lower(),
                gpus=int(row["num_gpus"]),
                layout=(int(row["ulysses_degree"]), int(row["ring_degree"])),
                batch=int(row["batch_size"]),
                latency_s=float(row["batch_latency_s"]),
                joules_each=float(row["energy_per_output_joules"]),
            )
            for row in csv.DictReader(file)
        ]


def ladders(rows: list[Row]) -> list[list[Row]]:
    """One ladder of batches per model, GPU and number of GPUs."""
    groups: dict[tuple[str, str, int], dict[tuple[int, int], list[Row]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for row in rows:
        groups[row.model, row.gpu, row.gpus][row.layout].append(row)
    return [_best(layouts) for _, layouts in sorted(groups.items())]


def _best(layouts: dict[tuple[int, int], list[Row]]) -> list[Row]:
    most = max(map(len, layouts.values()))
    whole = [sorted(rows, key=lambda row: row.batch) for rows in layouts.values() if len(rows) == most]
    return min(whole, key=lambda rows: rows[-1].joules_each)


@click.command(help=__doc__)
@click.argument("table", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def main(table: Path) -> None:
    found = ladders(read_rows(table))
    entries = [fit(rows) for rows in found]
    text = json.dumps({"source": SOURCE, "profiles": entries}).replace('}, {"model"', '},\n{"model"')
    profiles.FILE.write_text(text + "\n")
    errors = np.concatenate([_errors_of(rows, entry) for rows, entry in zip(found, entries, strict=True)])
    print(f"{len(entries)} profiles, {len(errors)} points")
    for name, column in zip(("latency", "joules"), errors.T, strict=True):
        told = [f"{np.percentile(column, at):.1%}" for at in (50, 90, 100)]
        print(f"{name}: median, p90, largest error {', '.join(told)}")


def fit(rows: list[Row]) -> dict[str, Any]:
    """One profile, as the file has it."""
    first = rows[0]
    card = CARDS[first.model]
    limit_w = first.gpus * GPUS[first.gpu].tdp_w
    best: tuple[float, Coefficients, Floats] | None = None
    for sharpness in SHARPNESS if len(rows) > 2 else SHARPNESS[:1]:
        coefficients = _fit(card, rows, limit_w, sharpness)
        errors = _errors(card, rows, limit_w, coefficients)
        missed = float(np.abs(errors).mean() + np.abs(errors[:, 1]).max())
        if best is None or missed < best[0] - WORTH:
            best = missed, coefficients, errors
    assert best is not None
    _, found, errors = best
    sizes = np.abs(errors)
    return {
        "model": first.model,
        "gpu": first.gpu,
        "gpus": first.gpus,
        "layout": list(first.layout),
        "coefficients": {name: _short(getattr(found, name)) for name in Coefficients.__slots__},
        "errors": {
            name: [_short(np.median(column), 2), _short(column.max(), 2)]
            for name, column in zip(("latency_s", "joules_each"), sizes.T, strict=True)
        },
        "points": [[row.batch, _short(row.latency_s), _short(row.joules_each)] for row in rows],
    }


def _errors_of(rows: list[Row], entry: dict[str, Any]) -> Floats:
    """Sizes of the errors of a profile as it stands in the file."""
    limit_w = rows[0].gpus * GPUS[rows[0].gpu].tdp_w
    return np.abs(_errors(CARDS[rows[0].model], rows, limit_w, Coefficients(**entry["coefficients"])))


def _fit(card: DiffusionCard, rows: list[Row], limit_w: float, sharpness: float) -> Coefficients:
    """Without the power limit, which the measurements do not reach: at it there would be no slope to
    follow."""
    slope_s = rows[-1].latency_s / rows[-1].batch
    idle_w = rows[0].gpus * GPUS[rows[0].gpu].idle_power_w

    def told_by(logs: Floats) -> Coefficients:
        host_s, each_s, more_w, each_j = np.exp(logs).tolist()
        return Coefficients(host_s, each_s, idle_w + more_w, each_j, sharpness)

    def residuals(logs: Floats) -> Floats:
        return (_errors(card, rows, np.inf, told_by(logs)) * WEIGHTS).ravel()

    solved = [
        least_squares(
            residuals,
            np.log([part * slope_s, slope_s, 0.4 * limit_w, 0.5 * rows[-1].joules_each]),
            loss="soft_l1",
            f_scale=SOFT,
        )
        for part in (0.1, 2.0)
    ]
    return told_by(min(solved, key=lambda one: float(one.cost)).x)


def _errors(card: DiffusionCard, rows: list[Row], limit_w: float, coefficients: Coefficients) -> Floats:
    """Relative errors of latency and joules, by row."""
    told = np.array([batch(card, coefficients, limit_w, row.batch) for row in rows])
    latency_s = np.array([row.latency_s for row in rows])
    joules = np.array([row.batch * row.joules_each for row in rows])
    return np.stack([told[:, 0] / latency_s - 1, told[:, 1] / joules - 1], axis=1)


def _short(value: float, digits: int = 4) -> float:
    return float(f"{value:.{digits}g}")


if __name__ == "__main__":
    main()
