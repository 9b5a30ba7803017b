"""What commands that read the store have in common: its options, opening it, progress, times, errors."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from sqlalchemy import Engine

from accounting.billing.bills import BillingError
from accounting.billing.carbon import CarbonError
from accounting.billing.focus import FocusError
from accounting.billing.source import day_us, month_us
from accounting.billing.tariff import DAY_US, TariffError
from accounting.store.engine import StoreError, connect
from joulegate.files import replacing
from joulegate.unusable import usable_settings
from proxy.billing import Billing, billing_of
from proxy.settings import Settings, load

DEFAULT_FILE = Path("joulegate.yaml")
Command = TypeVar("Command", bound=Callable[..., Any])


class Opened(NamedTuple):
    settings: Settings
    engine: Engine
    billing: Billing


def store_options(command: Command) -> Command:
    """--config, --data-dir and --database."""
    for option in (
        click.option("--database", metavar="URL", help="The store, where the settings do not say it."),
        click.option("--data-dir", type=click.Path(path_type=Path), help="Directory with the SQLite store."),
        click.option("--config", "-c", type=click.Path(path_type=Path), help="YAML file with the settings."),
    ):
        command = option(command)
    return command


def time_options(command: Command) -> Command:
    """--month, or --from and --to."""
    for option in (
        click.option("--to", "end", metavar="DATE", help="Last UTC day, such as 2026-11-30; today."),
        click.option("--from", "start", metavar="DATE", help="First UTC day; 30 days before the last."),
        click.option("--month", metavar="MONTH", help="One UTC month, such as 2026-11."),
    ):
        command = option(command)
    return command


class Span(NamedTuple):
    """Whole UTC days, in UTC microseconds."""

    start_us: int
    end_us: int

    @property
    def days(self) -> int:
        return (self.end_us - self.start_us) // DAY_US

    def __str__(self) -> str:
        first, last = (
            datetime.fromtimestamp(t_us // 1_000_000, UTC) for t_us in (self.start_us, self.end_us - 1)
        )
        return f"{first:%Y-%m-%d} to {last:%Y-%m-%d} (UTC)"


def span(month: str | None, start: str | None, end: str | None) -> Span:
    """Raises click.UsageError."""
    try:
        if month is not None:
            if start is not None or end is not None:
                raise click.UsageError("give --month, or --from and --to")
            return Span(*month_us(month))
        last = date.fromisoformat(end) if end is not None else datetime.now(UTC).date()
        first = date.fromisoformat(start) if start is not None else last - timedelta(days=29)
    except ValueError as error:
        given = " to ".join(text for text in (month, start, end) if text is not None)
        forms = "write a day as 2026-11-23, a month as 2026-11"
        raise click.UsageError(f"{given} is no time: {forms}") from error
    if first > last:
        raise click.UsageError("--from is later than --to")
    return Span(day_us(first.isoformat()), day_us(last.isoformat()) + DAY_US)


@contextmanager
def opened(config: Path | None, data_dir: Path | None, database: str | None) -> Iterator[Opened]:
    """Settings and store. All errors of opening and of reading become ones that a person can read."""
    try:
        with usable_settings():
            settings = _settings(config, data_dir, database)
        engine = connect(settings.store_url, must_exist=True)
        try:
            yield Opened(settings, engine, billing_of(settings, engine))
        finally:
            engine.dispose()
    except (StoreError, CarbonError, TariffError, BillingError, FocusError) as error:
        raise click.ClickException(str(error)) from error
    except BrokenPipeError:
        # Whoever read the output has enough of it. What is left must not be flushed into the closed pipe.
        sys.stdout = open("/dev/null", "w")  # noqa: SIM115
        raise SystemExit(0) from None


def _settings(config: Path | None, data_dir: Path | None, database: str | None) -> Settings:
    given = {"data_dir": data_dir, "database_url": database}
    path = config if config is not None else DEFAULT_FILE if DEFAULT_FILE.is_file() else None
    # No engine is spoken to, so without a file none need be named.
    nobody = {} if path is not None else {"backends": [{"id": "none", "url": "http://127.0.0.1:9"}]}
    return load(path, nobody, given)


@contextmanager
def progress(what: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal's error output; nothing elsewhere. Gives a function to be told what is done."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        task = bars.add_task(what, total=total)
        yield lambda done: bars.advance(task, done)


def put_out(text: str, output: Path | None) -> None:
    """To a file, replaced as a whole, or to standard output."""
    if output is None:
        click.echo(text, nl=False)
        return
    try:
        with replacing(output) as file:
            file.write(text)
    except OSError as error:
        raise click.ClickException(f"{error.filename or output}: {error.strerror}") from error
    click.echo(f"wrote {output}", err=True)
