"""`joulegate report`: who used what, where the energy went, and what it costs."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console

from accounting.billing.charges import Charge
from accounting.billing.tariff import DAY_US
from accounting.billing.usage import Group, Key, Question, Sums, merged
from accounting.store.queries import StoreReader
from joulegate.reporting.opening import opened, progress, put_out, span, store_options, time_options
from joulegate.reporting.render import FORMATS, as_text
from joulegate.reporting.usage import NAMES, report_document

BY: dict[str, Group] = {name: group for group, name in NAMES.items()}
PIPE_WIDTH = 150
"""A pipe has no width of its own."""


@click.command()
@click.option(
    "--by",
    multiple=True,
    type=click.Choice(["day", *BY]),
    help="Group by this; may be given again. Model when left out.",
)
@click.option(
    "--format", "form", type=click.Choice(["text", *FORMATS]), default="text", help="How it is written."
)
@click.option("--output", "-o", type=click.Path(path_type=Path), help="Write to this file.")
@time_options
@store_options
def command(
    by: tuple[str, ...],
    form: str,
    output: Path | None,
    month: str | None,
    start: str | None,
    end: str | None,
    config: Path | None,
    data_dir: Path | None,
    database: str | None,
) -> None:
    """Print requests, tokens, joules, cost and carbon of the last 30 days, by model.

    Another time with --month, or --from and --to; other groups with --by. As text, columns that do not fit
    are left out; csv, json, markdown and html have them all.
    """
    wanted, names = span(month, start, end), by or ("model",)
    groups = [BY[name] for name in names if name != "day"]
    with opened(config, data_dir, database) as found, progress("days", wanted.days) as tell:
        terms, by_day = found.billing.terms, "day" in names
        usage: dict[int, dict[Key, Sums]] = {}
        charges: list[Charge] = []
        for t_us in range(wanted.start_us, wanted.end_us, DAY_US):
            asked = Question(kind=None, start_us=t_us, end_us=t_us + DAY_US, bucket="day", group_by=groups)
            usage |= found.billing.report.ask(asked)
            if terms.currency is not None:
                charges += found.billing.bills.days(t_us, t_us + DAY_US)
            tell(1)
        if not by_day:
            usage = merged(usage)
        books = StoreReader(found.engine).books(wanted.start_us, wanted.end_us)
    document = report_document(str(wanted), usage, groups, books, charges, terms, by_day=by_day)
    console = Console()
    width = console.width if console.is_terminal or "COLUMNS" in console._environ else PIPE_WIDTH
    put_out(as_text(document, width) if form == "text" else FORMATS[form](document), output)
