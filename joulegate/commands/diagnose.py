"""`joulegate diagnose`: where the joules of some time went, and what would change it."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec
from rich.console import Console
from rich.padding import Padding
from rich.table import Table

from accounting.diagnosis import Diagnosis
from accounting.diagnosis.asking import Asking
from accounting.diagnosis.diagnose import Where
from accounting.diagnosis.findings import Figure, Finding
from joulegate.reporting.looking import console, joules, when, window_options, window_us
from joulegate.reporting.opening import opened, store_options
from proxy.diagnosis_views import diagnosis_view

WHERE = (
    ("requests", "requests_uj", "of requests that ended in this time"),
    ("  prefill", "prefill_uj", "their prompts"),
    ("  decode", "decode_uj", "their answers"),
    ("  idle share", "static_uj", "of both: idle power while they ran"),
    ("  aborted", "aborted_uj", "of both: answers that nobody took to their end"),
    ("  retried", "retried_uj", "tries that failed and were repeated elsewhere"),
    ("idle", "idle_uj", "with no request in flight"),
    ("unobserved", "unobserved_uj", "work that did not pass the proxy"),
    ("unmeasured", "unmeasured_uj", "whose course the meter did not see"),
    ("measured", "measured_uj", "all of the GPUs in this time"),
)


@click.command()
@window_options
@click.option("--backend", help="Only this backend.")
@click.option("--model", help="Only what this model cost; findings in proportion.")
@click.option("--tenant", help="Only what this tenant cost; findings in proportion.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, as the REST answers.")
@store_options
def command(
    last: str | None,
    start: str | None,
    end: str | None,
    backend: str | None,
    model: str | None,
    tenant: str | None,
    as_json: bool,
    config: Path | None,
    data_dir: Path | None,
    database: str | None,
) -> None:
    """Print where the joules of the last hour went, and what would change it.

    Causes come with their evidence and the saving to be expected for the same requests, the most worth
    changing first; docs/diagnosis.md explains each. Of a running joulegate the last two minutes are missing:
    GET /v1/energy/diagnosis has them.
    """
    t0_us, t1_us = window_us(last, start, end)
    with opened(config, data_dir, database) as found:
        diagnosis = Asking(found.engine).diagnosis(t0_us, t1_us, backend=backend, model=model, tenant=tenant)
    if as_json:
        click.echo(msgspec.json.encode(diagnosis_view(diagnosis)))
    else:
        show(diagnosis, console())


def show(found: Diagnosis, to: Console) -> None:
    simulated = " (simulated GPUs)" if found.simulated else ""
    to.print(f"[bold]{when(found.t0_us, found.t1_us)}[/bold]: {', '.join(found.backends)}{simulated}")
    to.print(_where(found.where))
    if not found.findings:
        to.print("No cause stands out.")
    if len(found.findings) > 1:
        to.print("Each saving is for this change alone: they cannot be added.")
    for number, finding in enumerate(found.findings, 1):
        to.print(f"[bold]{number}. {finding.cause}[/bold] of {finding.backend}: {_saving(finding, found)}")
        to.print(Padding(f"{finding.what}.\nTo change it: {finding.change}.", (0, 0, 0, 3), expand=False))
        to.print(Padding(f"[dim]{_evidence(finding)}[/dim]", (0, 0, 0, 3), expand=False))
    no = sorted({one.cause for one in found.ruled_out if not one.unknown})
    unknown = {one.cause: one.why for one in found.ruled_out if one.unknown}
    if no:
        to.print(f"Looked for and not found: {', '.join(no)}.")
    for cause, why in unknown.items():
        to.print(f"Cannot be told: {cause}, as {why}.")


def _saving(finding: Finding, found: Diagnosis) -> str:
    if finding.saving_uj is None:
        energy = "" if finding.joules_uj is None else f"takes part in {joules(finding.joules_uj)}, "
        return f"{energy}saving not known"
    whole = found.where.measured_uj
    part = f" ({abs(finding.saving_uj) / whole:.0%} of all)" if whole else ""
    does = "saves" if finding.saving_uj >= 0 else "would cost"
    size = joules(abs(finding.saving_uj))
    return f"{does} {size} ± {joules(finding.uncertainty_uj)}{part}"


def _evidence(finding: Finding) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {_figure(value)}" for name, value in finding.evidence.items())


def _figure(value: Figure) -> str:
    if value is None:
        return "not known"
    return f"{value:,.4g}" if isinstance(value, float) else str(value)


def _where(where: Where) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(style="dim")
    for name, field, what in WHERE:
        table.add_row(name, joules(getattr(where, field)), what)
    return table
