"""`joulegate sweep`: what a task costs at several loads."""

from __future__ import annotations

import math
from pathlib import Path

import click
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from joulegate.commands.numbers import NOT_NEGATIVE, POSITIVE, Finite
from joulegate.sweep import level as levels
from joulegate.sweep.api import Api
from joulegate.sweep.level import Level, Ran
from joulegate.sweep.plan import CLOSED, TASKS, Plan, SweepError
from joulegate.sweep.results import Results, versions
from joulegate.sweep.spread import Interval
from simulator.profiles import find


@click.command()
@click.option("--url", default="http://127.0.0.1:8080", show_default=True, help="A running joulegate.")
@click.option("--model", required=True, help="Name of the model to ask for.")
@click.option(
    "--task", type=click.Choice(list(TASKS)), default="chat", show_default=True, help="What to ask."
)
@click.option(
    "--levels",
    "wanted",
    default="1,2,4,8",
    show_default=True,
    help="Requests in flight; with --arrivals rates per second. With commas.",
)
@click.option(
    "--arrivals",
    default=CLOSED,
    show_default=True,
    help="closed, or the open loops constant, poisson, bursty, or a file with one time in seconds per line.",
)
@click.option(
    "--seconds",
    default=60.0,
    show_default=True,
    type=POSITIVE,
    help="A level ends after so long, warm-up included,",
)
@click.option("--requests", default=0, type=click.IntRange(0), help="... or when so many are sent,")
@click.option(
    "--precision",
    default=0.0,
    type=Finite(min=0, max=1, max_open=True),
    help="... or when J/token is known to so much, such as 0.01.",
)
@click.option(
    "--warm-up",
    "warm_up_s",
    type=NOT_NEGATIVE,
    default=None,
    help="Seconds to leave out. [default: detected]",
)
@click.option(
    "--drain",
    "drain_s",
    default=60.0,
    show_default=True,
    type=NOT_NEGATIVE,
    help="Seconds for what is in flight to end.",
)
@click.option(
    "--stop-gain",
    default=None,
    type=Finite(min=-1),
    help="Go no higher once tokens/s rise by less, such as 0.02.",
)
@click.option(
    "--stop-failures",
    default=None,
    type=Finite(min=0, max=1),
    help="... once so many fail, such as 0.05.",
)
@click.option(
    "--stop-ttft-ms",
    default=None,
    type=POSITIVE,
    help="... once the 90th percentile of TTFT is above.",
)
@click.option(
    "--slo-ttft-ms",
    default=1000.0,
    show_default=True,
    type=POSITIVE,
    help="Goodput: time to first token at most.",
)
@click.option(
    "--slo-tpot-ms",
    default=100.0,
    show_default=True,
    type=POSITIVE,
    help="Goodput: time per further token at most.",
)
@click.option(
    "--workers",
    default=1,
    show_default=True,
    type=click.IntRange(1),
    help="Locust processes, where one core is not enough.",
)
@click.option(
    "--like", default="", help="Hugging Face name whose answer lengths and published points to take."
)
@click.option("--gpu", default="h100", show_default=True, help="Published points of which GPU: h100 or b200.")
@click.option(
    "--gpus",
    default=1,
    show_default=True,
    type=click.IntRange(1),
    help="Published points on how many GPUs.",
)
@click.option(
    "--longest", default=32_768, show_default=True, type=click.IntRange(1), help="Longest answer in tokens."
)
@click.option(
    "--shorter",
    default=1.0,
    show_default=True,
    type=POSITIVE,
    help="Prompts and answers so many times as long.",
)
@click.option("--seed", default=1, show_default=True, help="Of prompts and lengths.")
@click.option(
    "--load", "load_options", multiple=True, help="Passed on to loadgen/taskfile.py, such as --data=DIR."
)
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("sweep"), show_default=True, help="Directory."
)
def command(
    wanted: str,
    gpu: str,
    gpus: int,
    out: Path,
    stop_gain: float | None,
    stop_failures: float | None,
    stop_ttft_ms: float | None,
    **asked: object,
) -> None:
    """Send a task at one load after another, and write what it cost.

    OUT gets sweep.json, CSV tables, what Locust wrote and report.html. Called again with the same plan,
    levels that OUT has already are not run again, so that a sweep that was broken off goes on. Exit status 1
    where energies do not add up.

    Where joulegate asks for keys the environment has two: OPENAI_API_KEY, a key that may send requests, and
    JOULEGATE_ADMIN_KEY, the admin's, which alone may see books and meters.
    """
    plan = Plan(**asked)  # type: ignore[arg-type]
    numbers = _numbers(wanted, plan)
    if plan.warm_up_s is not None and plan.warm_up_s >= plan.seconds:
        raise click.UsageError("--warm-up must be shorter than --seconds")
    console = Console()
    try:
        api = Api(plan.url)
        about = versions(api.version())
        results = Results(out, plan)
        if any(number not in results.ran for number in numbers):
            api.check()
        profile = find(plan.like or plan.model, gpu, gpus, plan.task)
        before: Level | None = None
        for number in numbers:
            if number not in results.ran:
                results.add(_run(console, plan, number, results, api))
                results.publish(about, profile.points if profile else ())
            level = results.ran[number].level
            _say(console, plan, level)
            if reason := stop(level, before, stop_gain, stop_failures, stop_ttft_ms):
                console.print(f"No higher: {reason}.")
                break
            before = level
        results.publish(about, profile.points if profile else ())
    except SweepError as error:
        raise click.ClickException(str(error)) from error
    console.print(f"{out}/report.html", soft_wrap=True)
    if not all(ran.level.proof.met for ran in results.ran.values()):
        raise click.ClickException("energies do not add up: see the report")


def _numbers(wanted: str, plan: Plan) -> list[float]:
    try:
        found = [float(part) for part in wanted.split(",")]
    except ValueError as error:
        raise click.UsageError(f"--levels are numbers with commas, not {wanted!r}") from error
    if not all(math.isfinite(number) for number in found):
        raise click.UsageError("--levels must be finite")
    if plan.closed and any(number < 1 or number != int(number) for number in found):
        raise click.UsageError("--levels must be whole numbers of at least 1")
    if min(found) <= 0:
        raise click.UsageError("--levels must be above 0")
    return found


def _run(console: Console, plan: Plan, number: float, results: Results, api: Api) -> Ran:
    unit = "in flight" if plan.closed else "times as fast" if "." in plan.arrivals else "per second"
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(f"{number:g} {unit}")

        def progress(ended: int, failed: int) -> None:
            wrong = f", {failed} failed" if failed else ""
            bar.update(
                task, description=f"{number:g} {unit}: {ended} answered{wrong}, up to {plan.seconds:g} s"
            )

        return levels.run(plan, number, results.level_directory(number), api, progress)


def stop(
    level: Level, before: Level | None, gain: float | None, failures: float | None, ttft_ms: float | None
) -> str | None:
    """Why a higher load need not be tried; None where it should be."""
    ended = level.requests + level.failures
    if failures is not None and ended and level.failures / ended > failures:
        return f"{level.failures} of {ended} requests failed"
    if ttft_ms is not None and level.ttft_ms is not None and level.ttft_ms["p90"] > ttft_ms:
        return f"TTFT is {level.ttft_ms['p90']:.0f} ms at the 90th percentile"
    if gain is not None and before is not None:
        speeds = [one.tokens_per_s or one.responses_per_s for one in (before, level)]
        risen = speeds[1] / speeds[0] - 1 if speeds[0] else 0.0
        if risen < gain:
            return f"{'tokens' if level.tokens_per_s else 'responses'}/s rose by {risen:.1%} only"
    return None


def _say(console: Console, plan: Plan, level: Level) -> None:
    proof = level.proof
    same = {True: "to the microjoule", None: "cannot be told, other traffic", False: "NO"}[proof.exact]
    ttft = "" if level.ttft_ms is None else f", TTFT {level.ttft_ms['p50']:.0f} ms"
    speed = f"{level.responses_per_s:.2f} responses/s"
    if level.tokens_per_s is not None:
        speed = f"{level.tokens_per_s:.1f} tokens/s"
        speed += f", {_figure(level.joules_per_token, level.joules_per_token_interval)} J/token"
    console.print(
        f"{level.level:>6g} {'in flight' if plan.closed else 'per s'}: {speed}, "
        f"{_figure(level.joules_per_response, level.joules_per_response_interval)} J/response{ttft}, "
        f"{level.requests} requests in {level.seconds:.0f} s",
        soft_wrap=True,
    )
    off = "" if proof.meter_off is None else f"; the meter differs by {proof.meter_off:.2%}"
    console.print(f"{'':>7}adds up: {same}{off}", style="dim", soft_wrap=True)
    if level.slow:
        console.print(
            f"{'':>7}the load generator is the bottleneck ({level.loadgen_cpu:.0%} of a core, wakes "
            f"{level.loadgen_lag_ms:.0f} ms late): take more --workers",
            style="yellow",
        )


def _figure(value: float | None, bounds: Interval | None) -> str:
    if value is None:
        return "not measured"
    return f"{value:.4g}" if bounds is None else f"{value:.4g} ± {(bounds.high - bounds.low) / 2:.2g}"
