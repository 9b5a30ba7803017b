"""`joulegate replay`: the books of a journal computed again, one JSON line per request, the books last."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import click
import msgspec

from accounting.journal import JournalError
from accounting.records import BookEntry, Output
from accounting.replay import replay


@dataclass
class Totals:
    """Sums over all GPUs and intervals, in microjoules. measured_uj is None while nothing was measured."""

    measured_uj: int | None = None
    requests_uj: int = 0
    idle_uj: int = 0
    unobserved_uj: int = 0
    unmeasured_uj: int = 0
    uncovered_us: int = 0
    intervals: int = 0

    def add(self, entry: BookEntry) -> None:
        if entry.measured_uj is not None:
            self.measured_uj = (self.measured_uj or 0) + entry.measured_uj
        self.requests_uj += entry.requests_uj
        self.idle_uj += entry.idle_uj
        self.unobserved_uj += entry.unobserved_uj
        self.unmeasured_uj += entry.unmeasured_uj
        self.uncovered_us += entry.t1_us - entry.t0_us - entry.covered_us
        self.intervals += 1

    @property
    def balanced(self) -> bool:
        parts = self.requests_uj + self.idle_uj + self.unobserved_uj + self.unmeasured_uj
        return (self.measured_uj or 0) == parts


def line(output: Output) -> bytes:
    return msgspec.json.encode(output)


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
def command(path: Path) -> None:
    """Read the journal at PATH (a data directory, a journal directory or one segment) and print what the
    ledger makes of it: one JSON line per request in the order they settled, then one line with the books.

    The microjoules are the same as were stored while it was live.
    """
    totals, requests = Totals(), 0
    try:
        for output in replay(path):
            if isinstance(output, BookEntry):
                totals.add(output)
            else:
                requests += 1
                click.echo(line(output))
    except JournalError as error:
        raise click.ClickException(str(error)) from error
    books = {"books": {**vars(totals), "balanced": totals.balanced, "requests": requests}}
    click.echo(json.dumps(books))
