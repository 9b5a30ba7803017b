"""`joulegate invoice`: what projects owe for a month, and closing the month."""

from __future__ import annotations

import time
from pathlib import Path

import click
from rich.console import Console

from accounting.billing.invoice import invoices
from joulegate.reporting.invoice import invoice_document, overview_document
from joulegate.reporting.opening import opened, progress, put_out, span, store_options
from joulegate.reporting.render import FORMATS, as_text

WIDTH = 80
"""Of invoices as text, wherever they are printed: the same invoice is the same bytes."""


@click.command()
@click.option("--month", required=True, help="The UTC month, such as 2026-11.")
@click.option(
    "--project", help="The invoice of this project ('': of who named none); all in short when left out."
)
@click.option("--close", is_flag=True, help="Make the month's invoices final. It has to be over.")
@click.option(
    "--format", "form", type=click.Choice(["text", *FORMATS]), default="text", help="How it is written."
)
@click.option("--output", "-o", type=click.Path(path_type=Path), help="Write to this file.")
@store_options
def command(
    month: str,
    project: str | None,
    close: bool,
    form: str,
    output: Path | None,
    config: Path | None,
    data_dir: Path | None,
    database: str | None,
) -> None:
    """Print what projects owe for a month, by the tariffs and policies of the settings.

    While the month is open it is a draft. --close makes it final: from then on it stays as it is, and what
    comes late goes to the next month's invoices as adjustments.
    """
    with opened(config, data_dir, database) as found:
        bills = found.billing.bills
        with progress(f"charges of {month}", span(month, None, None).days) as tell:
            if close:
                made = bills.close(month, time.time_ns() // 1000, lambda day: tell(1))
            else:
                made = bills.month(month, lambda day: tell(1))
    drawn = invoices(made.period, made.charges, made.terms, closed=made.closed)
    if project is None:
        document = overview_document(made.period, drawn, made.charges, made.terms)
    else:
        wanted = [invoice for invoice in drawn if (invoice.project or "") == project]
        if not wanted:
            known = ", ".join(str(invoice.project) for invoice in drawn if invoice.project is not None)
            raise click.ClickException(
                f"{month} has no charges of {project!r}; it has those of {known or 'nobody'}"
            )
        document = invoice_document(wanted[0])
    put_out(
        as_text(document, WIDTH, name_hidden=False) if form == "text" else FORMATS[form](document), output
    )
    if close:
        Console(stderr=True, highlight=False).print(f"{month} is closed")
