"""`joulegate export`: requests, books and FOCUS rows as files."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import get_args

import click

from accounting.billing import focus
from accounting.billing.bills import BillingError
from accounting.store.queries import RequestFilter, StoreReader
from joulegate.exporting.files import ExportError, Field, Format, Row, write
from joulegate.exporting.rows import (
    BOOK_FIELDS,
    FOCUS_FIELDS,
    REQUEST_FIELDS,
    book_rows,
    focus_rows,
    request_rows,
)
from joulegate.reporting.opening import Opened, Span, opened, progress, span, store_options, time_options

_NAMES = ", ".join(get_args(Format)[:-1]) + f" or {get_args(Format)[-1]}"


@click.command()
@click.argument("what", type=click.Choice(["requests", "books", "focus"]))
@click.option(
    "--format",
    "form",
    type=click.Choice(get_args(Format)),
    help="As FILE ends, else csv. Parquet: joulegate[export].",
)
@click.option("--output", "-o", type=click.Path(path_type=Path), help="Write to this file.")
@click.option("--project", help="Only of this project (requests, focus).")
@click.option("--model", help="Only of this model (requests).")
@time_options
@store_options
def command(
    what: str,
    form: Format | None,
    output: Path | None,
    project: str | None,
    model: str | None,
    month: str | None,
    start: str | None,
    end: str | None,
    config: Path | None,
    data_dir: Path | None,
    database: str | None,
) -> None:
    """Write requests (newest first), books (by hour and device), or a month's charges in the form of FOCUS.

    The last 30 days when no time is given; focus wants --month. Rows are written as they are read.
    """
    if what == "focus" and month is None:
        raise click.UsageError("focus is by the month: --month 2026-11")
    takes = {"requests": ("--project", "--model"), "books": (), "focus": ("--project",)}[what]
    for option, given in (("--project", project), ("--model", model)):
        if given is not None and option not in takes:
            raise click.UsageError(f"{what} cannot be narrowed down by {option}")
    wanted, form = span(month, start, end), form or _by_name(output)
    with opened(config, data_dir, database) as found:
        rows, fields = _rows(what, found, wanted, month or "", project, model)
        try:
            with progress(what, None) as tell:
                count = write(rows, fields, form, output, tell)
        except ExportError as error:
            raise click.ClickException(str(error)) from error
    if output is not None:
        click.echo(f"wrote {count:,} rows to {output}", err=True)


def _by_name(output: Path | None) -> Format:
    """Raises click.UsageError where the ending says something that cannot be written."""
    ending = "" if output is None else output.suffix.removeprefix(".")
    if ending not in ("", *get_args(Format)):
        raise click.UsageError(f"no files ending in .{ending} are written; give --format {_NAMES}")
    return next((form for form in get_args(Format) if form == ending), "csv")


def _rows(
    what: str, found: Opened, wanted: Span, month: str, project: str | None, model: str | None
) -> tuple[Iterable[Row], list[Field]]:
    reader = StoreReader(found.engine)
    if what == "requests":
        asked = RequestFilter(model=model, finished_from_us=wanted.start_us, finished_before_us=wanted.end_us)
        return request_rows(reader, asked, project), REQUEST_FIELDS
    if what == "books":
        return book_rows(reader, wanted.start_us, wanted.end_us), list(BOOK_FIELDS)
    with progress(f"charges of {month}", wanted.days) as tell:
        made = found.billing.bills.month(month, lambda day: tell(1))
    # The rules hold for all projects together: they are checked before some are left out.
    if faults := focus.check(focus.focus_rows(month, made.charges, made.terms)):
        raise BillingError(f"the rows of {month} break FOCUS's rules: {'; '.join(faults[:3])}")
    return focus_rows(made, project), FOCUS_FIELDS
