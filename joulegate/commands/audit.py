"""`joulegate audit`: proves that the store's books balance, and that the journal says the same."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from accounting.audit import KINDS, Report, audit
from accounting.audit import Progress as Tell
from accounting.journal import JournalError
from accounting.store.engine import StoreError, connect

DEFAULT = Path("joulegate-data")
WIDTH = 120


class CannotRun(click.ClickException):
    """The audit could not be made: neither clean nor with findings."""

    exit_code = 2


@click.command()
@click.argument("data_dir", type=click.Path(path_type=Path), required=False)
@click.option("--database", metavar="URL", help="The store, where it is not DATA_DIR/joulegate.db.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(data_dir: Path | None, database: str | None, as_json: bool) -> None:
    """Prove the store of DATA_DIR (joulegate-data when left out), and compare it with its journal.

    Checks every interval's books, every request's sums, that what GPUs gave and what requests got agrees, and
    replays the journal to compare it with the store record by record. Changes nothing; may run beside the
    service. With --database alone the store is proved without a journal.

    Ends with 0 when all is well, 1 when something was found, 2 when it could not be done.
    """
    if data_dir is None and database is None:
        data_dir = DEFAULT
    if data_dir is not None and not data_dir.is_dir():
        raise CannotRun(f"{data_dir} is no directory; name the data directory or the store (--database URL)")
    url = database if database is not None else f"sqlite:///{(data_dir or DEFAULT).absolute()}/joulegate.db"
    journal = data_dir / "journal" if data_dir is not None else None
    try:
        engine = connect(url, must_exist=True)
        try:
            with _progress() as tell:
                report = audit(engine, journal, tell)
        finally:
            engine.dispose()
    except (StoreError, JournalError) as error:
        raise CannotRun(str(error)) from error
    except OSError as error:
        raise CannotRun(f"{error.filename}: {error.strerror}") from error
    if as_json:
        click.echo(msgspec.json.encode(report))
    else:
        _show(report, _wide_console())
    sys.exit(0 if report.clean else 1)


@contextmanager
def _progress() -> Iterator[Tell]:
    """Bars on a terminal; nothing elsewhere."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        tasks = {}

        def tell(what: str, rows: int, of: int | None) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=of)
            bars.advance(tasks[what], rows)

        yield tell


def _show(report: Report, console: Console) -> None:
    console.print(
        f"{report.requests:,} requests with {report.shares:,} shares and {report.corrections:,} corrections, "
        f"{report.intervals:,} intervals"
    )
    if report.journal is not None:
        told = report.journal
        console.print(
            f"journal: {told.segments:,} segments tell {told.requests:,} requests, "
            f"{told.corrections:,} corrections and {told.intervals:,} intervals; "
            f"{told.not_stored_yet:,} of them are not stored yet"
        )
    else:
        console.print("no journal to compare with")
    for what, before_us in report.deleted_before_us.items():
        if before_us:
            console.print(f"{what} from before {_time(before_us)} are kept as sums only")
    if report.gpus:
        console.print(_sums(report))
    console.print(_rules(report))
    for gap in report.gaps:
        when = f"{_time(gap.t0_us)}, {gap.seconds:,.1f} s"
        console.print(f"gap of {gap.gpu} at {when}: {gap.judgement} ({gap.why})", markup=False)
    for finding in report.findings:
        console.print(f"{finding.kind}: {finding.where}: {finding.what}", markup=False)
    hidden = sum(report.found.values()) - len(report.findings)
    if hidden:
        console.print(f"and {hidden:,} more")
    console.print("clean" if report.clean else f"{sum(report.found.values()):,} findings")


def _wide_console() -> Console:
    """A pipe has no width, and the table wants some."""
    console = Console(highlight=False, soft_wrap=True)
    console.width = max(console.width, WIDTH)
    return console


def _sums(report: Report) -> Table:
    table = Table(title="Books, in joules")
    table.add_column("device", overflow="fold")
    names = ("measured", "requests", "idle", "unobserved", "unmeasured", "shares", "not covered, s")
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    for gpu in report.gpus:
        energies = (gpu.measured_uj, gpu.requests_uj, gpu.idle_uj, gpu.unobserved_uj, gpu.unmeasured_uj)
        figures = ["-" if uj is None else f"{uj / 1e6:,.1f}" for uj in (*energies, gpu.shares_uj)]
        table.add_row(gpu.gpu, *figures, f"{gpu.not_covered_us / 1e6:,.1f}")
    return table


def _rules(report: Report) -> Table:
    table = Table(title="Rules")
    table.add_column("rule", overflow="fold")
    table.add_column("broken", justify="right")
    for kind, count in report.found.items():
        table.add_row(f"{KINDS[kind]} [dim]({kind})[/dim]", f"{count:,}")
    return table


def _time(t_us: int) -> str:
    return datetime.fromtimestamp(t_us // 1_000_000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
