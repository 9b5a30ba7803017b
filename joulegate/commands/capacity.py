"""`joulegate capacity`: how many requests fit, under a power budget and limits on latency."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click
import msgspec
from rich.console import Console
from rich.table import Table

from accounting.diagnosis.asking import Asking
from accounting.diagnosis.capacity import Capacity, Question, Way
from joulegate.reporting.looking import console, when, window_options, window_us
from joulegate.reporting.opening import opened, store_options
from proxy.diagnosis_views import capacity_view
from simulator.profiles import Profile, profiles

POSITIVE = click.FloatRange(min=0, min_open=True)


@click.command()
@window_options
@click.option("--backend", help="Only what this backend showed.")
@click.option("--model", help="The model, where several were served.")
@click.option("--power", "power_w", type=POSITIVE, help="Watts that all GPUs may draw together.")
@click.option("--ttft", "ttft_ms", type=POSITIVE, help="Most milliseconds to the first token.")
@click.option("--itl", "itl_ms", type=POSITIVE, help="Most milliseconds between two tokens.")
@click.option("--percent", type=click.FloatRange(50, 99.9), default=95.0, help="Percentile of both; 95.")
@click.option("--rate", "per_s", type=POSITIVE, help="Requests per second to be served; those of now.")
@click.option("--growth", type=POSITIVE, help="Growth of the rate per month: 0.1 is a tenth.")
@click.option("--replicas", type=click.IntRange(1, 64), help="Most replicas; 1 without --power.")
@click.option("--prompts", "prompt_factor", type=POSITIVE, default=1.0, help="Prompts so many times as long.")
@click.option("--answers", "answer_factor", type=POSITIVE, default=1.0, help="Answers so many times as long.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, as the REST answers.")
@store_options
def command(
    last: str | None,
    start: str | None,
    end: str | None,
    backend: str | None,
    model: str | None,
    power_w: float | None,
    ttft_ms: float | None,
    itl_ms: float | None,
    percent: float,
    per_s: float | None,
    growth: float | None,
    replicas: int | None,
    prompt_factor: float,
    answer_factor: float,
    as_json: bool,
    config: Path | None,
    data_dir: Path | None,
    database: str | None,
) -> None:
    """Print how many requests of the mix of the last hour fit, on how many replicas, at which batch limit.

    Latencies are percentiles over requests, that between tokens of each request's mean. What it stands on is
    explained in docs/capacity.md.
    """
    t0_us, t1_us = window_us(last, start, end)
    question = Question(
        power_w=power_w,
        ttft_ms=ttft_ms,
        itl_ms=itl_ms,
        percent=percent,
        per_s=per_s,
        growth=growth,
        most_replicas=replicas,
        prompt_factor=prompt_factor,
        answer_factor=answer_factor,
    )
    with opened(config, data_dir, database) as found:
        answer = Asking(found.engine).capacity(t0_us, t1_us, question, backend=backend, model=model)
    if as_json:
        click.echo(msgspec.json.encode(capacity_view(answer)))
    else:
        show(answer, question, (t0_us, t1_us), console())


def show(found: Capacity, question: Question, window: tuple[int, int], to: Console) -> None:
    simulated = " (simulated GPUs)" if found.simulated else ""
    served = f"{found.model or 'one model'} on {', '.join(found.backends)}"
    to.print(f"[bold]{when(*window)}[/bold]: {served}{simulated}")
    to.print(
        f"{found.present_per_s:.3g} requests/s, {found.peak_per_s:.3g} in the busiest minute. Asked for: "
        f"{_asked(question)}."
    )
    if found.seen:
        to.print(_seen(found))
    if found.most is None:
        to.print("[bold]Nothing fits.[/bold]")
        return
    to.print(f"[bold]Most[/bold]: {_way(found.most, question)}.")
    if len(found.by_replicas) > 1:
        to.print(_by_replicas(found.by_replicas))
    if found.forecast is None:
        to.print(f"{found.forecast_per_s:.3g} requests/s do not fit.")
    else:
        to.print(
            f"[bold]{found.forecast_per_s:.3g} requests/s[/bold] take least power with "
            f"{_way(found.forecast, question)}."
        )
    if found.months is not None:
        to.print(
            f"With {question.growth:.0%} more each month the most is reached in {found.months:.1f} months."
        )
    if found.changed is not None:
        to.print(f"With the changed mix: {_way(found.changed, question)}.")
    to.print(_references(found.model))


def _asked(question: Question) -> str:
    limits = [
        (question.power_w, "at most {:,.0f} W"),
        (question.ttft_ms, "first token within {:,.0f} ms"),
        (question.itl_ms, "{:,.0f} ms between tokens"),
    ]
    told = [text.format(value) for value, text in limits if value is not None]
    told += [f"at the {question.percent:g}th percentile"] if question.ttft_ms or question.itl_ms else []
    return ", ".join(told) if told else "no limits"


def _way(way: Way, question: Question) -> str:
    times = [
        f"{name} {value:,.0f} ms"
        for name, value in (("TTFT", way.ttft_ms), ("ITL", way.itl_ms))
        if value is not None
    ]
    held = {"power": "power", "ttft": "the first token", "itl": "the time between tokens"}
    forbids = f"; {held.get(way.held_by, 'the queue')} forbids more" if way.held_by else ""
    unsure = "; the batch is far beyond what was seen" if way.beyond_seen else ""
    replicas = f"{way.replicas} replica{'s' if way.replicas > 1 else ''}"
    return (
        f"{way.per_s:.3g} requests/s on {replicas}, {way.power_w:,.0f} W, {way.tokens_per_s:,.0f} tokens/s, "
        f"{way.tokens_per_joule:.3g} tokens/J, {', '.join(times)} ({question.percent:g}th percentile), "
        f"max_num_seqs {way.max_num_seqs}{forbids}{unsure}"
    )


def _seen(found: Capacity) -> Table:
    table = Table(title="Seen, per replica", title_justify="left")
    for name in ("batch", "minutes", "tokens/s", "W", "tokens/J"):
        table.add_column(name, justify="right")
    for one in found.seen:
        table.add_row(
            f"{one.batch:.1f}",
            str(one.minutes),
            f"{one.tokens_per_s:,.0f}",
            f"{one.power_w:,.0f}",
            f"{one.tokens_per_joule:.3g}",
        )
    return table


def _by_replicas(ways: Sequence[Way]) -> Table:
    table = Table(title="By replicas", title_justify="left")
    for name in ("replicas", "requests/s", "W", "batch", "max_num_seqs", "held by"):
        table.add_column(name, justify="right")
    for way in ways:
        table.add_row(
            str(way.replicas),
            f"{way.per_s:.3g}",
            f"{way.power_w:,.0f}",
            f"{way.batch:.1f}",
            str(way.max_num_seqs),
            way.held_by or "-",
        )
    return table


def _references(model: str | None) -> str:
    """What arXiv 2601.22076 measured of a model of this name; not measured here."""
    lines = [
        f"  {profile.gpus} x {profile.gpu}, {profile.task}: {_points(profile)}"
        for profile in profiles().values()
        if model is not None and profile.model.lower() == model.lower()
    ]
    if not lines:
        return "Reference: arXiv 2601.22076 measured no model of this name."
    return "\n".join(
        ["Reference, measured by arXiv 2601.22076 and not here (batch limit: tokens/J):", *lines]
    )


def _points(profile: Profile) -> str:
    return ", ".join(
        f"{point.max_num_seqs}: {1 / point.joules_per_token:.3g}"
        for point in sorted(profile.points, key=lambda point: point.max_num_seqs)
    )
