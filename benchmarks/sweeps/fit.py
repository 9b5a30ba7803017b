"""Fits the simulator's profiles to the paper's table (arXiv 2601.22076) and writes them into the project.

    python -m benchmarks.sweeps.fit LLM_CSV OUTPUT_LENGTHS_JSON

The two files are the authors' data. Written are simulator/profiles/measured.json and generic.json and
loadgen/lengths.json; nothing else of the data is kept. Takes about ten seconds.
"""

from __future__ import annotations

import json
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from benchmarks.sweeps import generic_fit
from benchmarks.sweeps.table import Row, grouped, read_lengths, read_rows
from loadgen import lengths
from loadgen.lengths import TASKS
from simulator import profiles
from simulator.cards import BLOCK_TOKENS, GPUS, ModelCard, kv_blocks
from simulator.cards_measured import MEASURED
from simulator.physics import expert_share
from simulator.physics_fitted import FILL, GRAPH

SOURCE = "arXiv 2601.22076, Where Do the Joules Go? (public measurements: vLLM 0.11.1, H100 and B200)"
LEAST_ERROR = 0.03
"""Relative error below which a point pulls by its square; above, by its size: outliers pull less."""

LIMITED = 0.95
"""A top rung whose mean batch is below this part of max_num_seqs is taken to be limited by the KV cache."""

Floats = NDArray[np.float64]


@click.command(help=__doc__)
@click.argument("table", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("histograms", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def main(table: Path, histograms: Path) -> None:
    answers = read_lengths(histograms)
    lengths.FILE.write_text(_json({"source": SOURCE, "tasks": answers}))
    ladders = grouped(read_rows(table))
    entries = [fit(rows, answers) for rows in ladders.values()]
    profiles.MEASURED.write_text(_json({"source": SOURCE, "profiles": entries}))
    profiles.GENERIC.write_text(_json({"source": SOURCE, **generic_fit.fit(ladders, entries)}))
    print(f"{len(entries)} profiles, {sum(map(len, ladders.values()))} points")


def fit(rows: list[Row], answers: dict[str, dict[str, list[float]]]) -> dict[str, object]:
    """One profile, as the file has it."""
    first = rows[0]
    model = MEASURED[first.model]
    answer = float(np.median([row.answer_tokens for row in rows]))
    prompt = float(TASKS[first.task].prompt_tokens)
    parts = np.array(answers[first.task].get(first.model, answers[first.task][lengths.ANY]))
    # Who is in the batch is there for as long as its answer is: long answers are seen more often.
    context = prompt + answer * float(np.mean(parts**2) / np.mean(parts) ** 2) / 2
    running, kv_tokens = _running(rows, model, context)
    tokens_per_s = np.array([row.tokens_per_s for row in rows])
    joules = np.array([row.joules_per_token for row in rows])
    columns = _columns(running, model, running / answer, prompt)
    time_s = _least(columns, running / tokens_per_s)
    asked_j = _least(columns, running * joules)
    limit_j = first.gpus * GPUS[first.gpu].tdp_w * (columns @ time_s)
    slow = np.abs(running / (columns @ time_s) / tokens_per_s - 1)
    dear = np.abs(np.minimum(columns @ asked_j, limit_j) / running / joules - 1)
    return {
        "model": first.model,
        "task": first.task,
        "gpu": first.gpu,
        "gpus": first.gpus,
        "prompt_tokens": prompt,
        "answer_tokens": round(answer, 1),
        "context_tokens": round(context, 1),
        "kv_tokens": kv_tokens,
        "time_s": [_short(value) for value in time_s],
        "asked_j": [_short(value) for value in asked_j],
        "errors": {
            "tokens_per_s": [_short(np.median(slow), 2), _short(slow.max(), 2)],
            "joules_per_token": [_short(np.median(dear), 2), _short(dear.max(), 2)],
        },
        "points": [
            [row.max_num_seqs, *(_short(v) for v in (row.batch, row.tokens_per_s, row.joules_per_token))]
            for row in rows
        ],
    }


def _running(rows: list[Row], model: ModelCard, context: float) -> tuple[Floats, int]:
    """Sequences running in each run, and the KV cache's room in tokens."""
    rungs = np.array([row.max_num_seqs for row in rows], float)
    batch = np.array([row.batch for row in rows])
    last = rows[-1]
    if batch[-1] < LIMITED * rungs[-1]:
        room = batch[-1] * (context + BLOCK_TOKENS / 2)
        return np.minimum(rungs, batch[-1]), int(room)
    by_card = kv_blocks(model, GPUS[last.gpu], last.gpus) * BLOCK_TOKENS
    return rungs, int(max(by_card, 1.5 * rungs[-1] * context))


def _columns(running: Floats, model: ModelCard, starts: Floats, prompt: float) -> Floats:
    """What the coefficients of a profile stand before. `starts` are prefills per step, on average."""
    some = 1 - np.exp(-starts)  # part of the steps that have a prefill: they read more experts
    alone = np.array([expert_share(model, round(n)) for n in running])
    mixed = np.array(
        [
            expert_share(model, round(n + prompt * s / p))
            for n, s, p in zip(running, starts, some, strict=True)
        ]
    )
    experts = (1 - some) * alone + some * mixed
    return np.stack(
        [
            np.ones_like(running),
            running,
            experts,
            np.minimum(running, FILL),
            np.maximum(running - GRAPH, 0),
        ],
        axis=1,
    )


def _least(columns: Floats, values: Floats) -> Floats:
    """Coefficients at least 0 with the smallest relative errors, large ones counted by their size."""
    pull = np.ones_like(values)
    for _ in range(30):
        weights = pull / values
        found, _ = nnls(columns * weights[:, None], values * weights)
        pull = 1 / np.sqrt(np.maximum(np.abs(columns @ found / values - 1), LEAST_ERROR))
    return found


def _short(value: float, digits: int = 4) -> float:
    return float(f"{value:.{digits}g}")


def _json(value: object) -> str:
    """One entry of a list per line: a change can be read."""
    text = json.dumps(value)
    return text.replace('}, {"model"', '},\n{"model"').replace('], "', '],\n"') + "\n"


if __name__ == "__main__":
    main()
