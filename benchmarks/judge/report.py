"""The results as tables: for a terminal, and as Markdown for the docs."""

from __future__ import annotations

from datetime import date
from importlib.metadata import version

from rich.console import Console
from rich.table import Table

from benchmarks.judge.baselines import METHODS
from benchmarks.judge.score import OURS, Errors, Score
from benchmarks.traces.trace import WARM_UP_S

COMMAND = "python -m benchmarks.attribution --full"
WIDTH = 132
"""Characters of a table where the output is no terminal."""


def percent(share: float | None) -> str:
    """A share as a percentage with two or three digits; a dash where it is not known."""
    if share is None:
        return "-"
    return f"{100 * share:.1f}" if abs(share) < 0.9995 else f"{100 * share:.0f}"


def show(scores: list[Score]) -> None:
    """Print both tables."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    ours = Table(title="joulegate: error of a request's joules in %, requests after the warm-up")
    for head in OURS_HEAD:
        ours.add_column(head, justify="left" if head in ("scenario", "aims") else "right")
    for score in scores:
        ours.add_row(*_ours(score))
    console.print(ours)
    others = Table(title="methods side by side: median / nine in ten within / worst tenant, in %")
    for head in ("scenario", OURS, *METHODS):
        others.add_column(head, justify="left" if head == "scenario" else "right")
    for score in scores:
        others.add_row(score.scenario.title, *(_cell(score.methods[name]) for name in (OURS, *METHODS)))
    console.print(others)


OURS_HEAD = (
    "scenario",
    "requests",
    "batch",
    "median",
    "p90",
    "p99",
    "tenant",
    "dynamic",
    "measured",
    "books",
    "aims",
)


def _ours(score: Score) -> list[str]:
    errors = score.methods[OURS]
    return [
        score.scenario.title,
        str(score.judged),
        f"{score.mean_batch:.1f}",
        percent(errors.median),
        percent(errors.p90),
        percent(errors.p99),
        percent(errors.tenant),
        percent(score.dynamic_median),
        f"{100 * score.measured_error:+.2f}",
        "exact" if score.balanced else "OFF",
        "; ".join(score.missed) or ("met" if score.scenario.aim else "met (books only)"),
    ]


def _cell(errors: Errors) -> str:
    return " / ".join(percent(value) for value in (errors.median, errors.p90, errors.tenant))


def markdown(heads: tuple[str, ...], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)


def page(scores: list[Score], measured_s: float, today: date) -> str:
    """docs/attribution-errors.md."""
    ours = markdown(OURS_HEAD, [_ours(score) for score in scores])
    heads = ("scenario", OURS, *METHODS)
    others = markdown(
        heads,
        [[s.scenario.title, *(_cell(s.methods[name]) for name in heads[1:])] for s in scores],
    )
    seeds = ", ".join(f"{s.scenario.name} {s.scenario.seed}" for s in scores)
    tasks = sorted({task for score in scores for task in score.by_task})
    by_task = markdown(
        ("scenario", *tasks),
        [[s.scenario.title, *(percent(s.by_task.get(task)) for task in tasks)] for s in scores],
    )
    return f"""# Errors of the attribution on simulated traces

Made by `{COMMAND}` on {today.isoformat()} (numpy {version("numpy")}, scipy {version("scipy")}). Do not edit.
**Nothing here was checked on a real GPU.** All figures in %.

![Error by scenario and method](img/attribution-errors.svg)

## joulegate
Error of a request's joules against the truth: median, nine in ten within (p90), 99 in 100 within (p99); the
worst error of a tenant's sum; the median error of `dynamic_uj`; measured against true energy; whether the
books balance to the microjoule. `batch` is the mean number of sequences in an engine step.

{ours}

Aims: dense model, clean run: median 5 %, p90 20 %. Mixture of experts, messy engine, and where something that
matters is not told in time: 10 % and 30 %. Worst tenant 10 %, measured energy 1 %, books exact. Traffic that
bypasses the proxy cannot be told from the requests that do not: no aim but the books.

## Beside simpler methods
Median / nine in ten within / worst tenant. All see the same tokens and times and split the same energy.

{others}

- *tokens in+out*: the energy of the whole run by prompt and output tokens
- *equal split*: each interval in equal parts to the requests in flight
- *output tokens*: each interval by the output tokens seen in it
- *regression*: busy time, prompt tokens and output tokens, fitted over the whole run

## By task
joulegate's median error. Chat: short prompt and answer. RAG: long prompt. Reasoning: long answer.

{by_task}

## How it is made
- An engine in virtual time (`benchmarks/traces/`): Poisson arrivals, chunked prefill, continuous batching.
  Time and energy of a step are those of [the simulator](simulator.md), a fit to the data of
  arXiv 2601.22076.
- The truth of a request is the Shapley value of each step's energy among the sequences in it: what a step
  costs for any one is shared equally, own work is its owner's, expert reads are split by Owen's integral, the
  cap on power takes off the same part of all. Idle power during a step is split like the step's time: what is
  above it is the truth of `dynamic_uj`.
- Messy: batches padded to CUDA-graph sizes, prefill in tiles of 128 tokens, bubbles, 5 % noise per step, 4 %
  drift.
- A counter per GPU: steps of 100 ms (where said, 20 ms) with 3 % jitter, 50 ms behind (joulegate is not
  told), each step 1 % off, polled every 30 ms with 25 % dither.
- The events are those of the live service, in its order; the ledger is the one that serves.
- Requests that start after a warm-up of {WARM_UP_S:.0f} s are judged; they arrive for {measured_s:.0f} s
  (three times that at low load). All others share the GPU and the books.
- Seeds, others than those of the quick run, on which changes are tried: {seeds}.

## What was not checked
- Whether a real engine's steps cost what these do; whether a real counter lags and rounds like this one.
- Preemption, several backends on a GPU, a changing clock or power cap, requests that break off.
- Host energy. Traces longer than {3 * measured_s / 60:.0f} minutes.
"""


def section(scores: list[Score], today: date) -> str:
    """The section `Error on simulated traces` of docs/attribution.md, without its heading."""
    rows = []
    for score in scores:
        errors = score.methods[OURS]
        rows.append(
            [
                score.scenario.title,
                *(f"{percent(value)} %" for value in (errors.median, errors.p90, errors.tenant)),
            ]
        )
    exact = all(score.balanced for score in scores)
    worst = max(abs(score.measured_error) for score in scores)
    table = markdown(("trace", "median", "nine in ten within", "worst tenant"), rows)
    return f"""Error of a request's joules against a known truth, written by `{COMMAND}`
on {today.isoformat()}. How it was made, and other methods beside it:
[attribution-errors.md](attribution-errors.md).

{table}

The books balanced to the microjoule in {"each" if exact else "NOT ALL"}; measured energy was within
{100 * worst:.2f} % of the true.
"""


def replace_section(text: str, heading: str, body: str) -> str:
    """`text` with what stands under `heading`, up to the next of its rank or the end, replaced.

    Raises ValueError where the heading is missing.
    """
    before, found, after = text.partition(f"{heading}\n")
    if not found:
        raise ValueError(f"no heading {heading!r}")
    rank = heading.split(" ")[0]
    rest = after.find(f"\n{rank} ")
    return before + found + body + ("" if rest < 0 else after[rest:])
