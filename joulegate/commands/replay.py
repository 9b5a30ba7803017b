"""`joulegate replay`: the books of a journal or a trace again, one JSON line per request, the books last."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import click
import msgspec

from accounting.final import final
from accounting.journal import JournalError
from accounting.records import BookEntry, Boundary, Correction, Output, RequestRecord, boundary_of
from accounting.replay import HOSTS, Replay, owed_uj
from accounting.trace import TraceError, is_trace, replay_trace


@dataclass
class Totals:
    """Sums over all GPUs, or all hosts, in microjoules. measured_uj is None while nothing was measured."""

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
    ledger makes of it: one JSON line per request with its final figures, corrections added, in the order they
    settled, then one line with the books of the GPUs, and of hosts where there are any. The microjoules are
    the same as were stored while it was live.

    Or read the trace at PATH (.jsonl or .jsonl.gz, docs/traces.md) and print id and joules of each request,
    then one line with where all the energy went.
    """
    try:
        if path.is_file() and is_trace(path):
            _trace(path)
        else:
            _journal(path)
    except (JournalError, TraceError) as error:
        raise click.ClickException(str(error)) from error
    except OSError as error:
        raise click.ClickException(f"{error.filename or path}: {error.strerror or error}") from error


def _journal(path: Path) -> None:
    journal = Replay(path)
    totals: dict[Boundary, Totals] = {"gpu": Totals(), "host": Totals()}
    records_uj: dict[Boundary, int] = {"gpu": 0, "host": 0}
    requests = 0
    for output in final(journal.outputs()):
        if isinstance(output, BookEntry):
            totals[boundary_of(output.gpu)].add(output)
            continue
        records_uj["gpu"] += output.energy_uj or 0
        if isinstance(output, Correction):  # its request's line came long ago, or stood before this journal
            click.echo(b'{"correction":' + line(output) + b"}")
        else:
            requests += 1
            records_uj["host"] += output.host_uj or 0
            click.echo(line(output))
    before, after = owed_uj(journal.begins), owed_uj(journal.ledger.state)
    of_hosts = before.pop(HOSTS, 0), after.pop(HOSTS, 0)
    of_gpus = sum(before.values()), sum(after.values())
    books = {"books": {**_sums(totals["gpu"], records_uj["gpu"], of_gpus), "requests": requests}}
    if totals["host"].intervals:
        books["host_books"] = _sums(totals["host"], records_uj["host"], of_hosts)
    click.echo(json.dumps(books))


def _sums(totals: Totals, records_uj: int, owed_uj: tuple[int, int]) -> dict[str, object]:
    owed = {"owed_before_uj": owed_uj[0], "owed_after_uj": owed_uj[1]}
    return {**vars(totals), "balanced": totals.balanced, "records_uj": records_uj, **owed}


def _trace(path: Path) -> None:
    totals, records_uj = Totals(), 0
    for output in final(replay_trace(path)):
        if isinstance(output, BookEntry):
            totals.add(output)
            continue
        records_uj += output.energy_uj or 0
        if isinstance(output, RequestRecord):
            click.echo(msgspec.json.encode(_joules(output)))
    books = {
        "measured_joules": _j(totals.measured_uj),
        "attributed_joules": _j(totals.requests_uj),
        "idle_joules": _j(totals.idle_uj),
        "unmeasured_joules": _j(totals.unmeasured_uj),
        "unobserved_joules": _j(totals.unobserved_uj),
        # All is settled: what the books gave to requests is what the requests have.
        "balanced": totals.balanced and records_uj == totals.requests_uj,
    }
    click.echo(msgspec.json.encode(books))


def _joules(record: RequestRecord) -> dict[str, object]:
    return {
        "id": record.uid,
        "joules": _j(record.energy_uj),
        "prefill_joules": _j(record.prefill_uj),
        "decode_joules": _j(record.decode_uj),
        "dynamic_joules": _j(record.dynamic_uj),
        "uncertainty_joules": _j(record.uncertainty_uj),
        "status": record.status,
        "tenant": record.tenant,
    }


def _j(energy_uj: int | None) -> float | None:
    return None if energy_uj is None else energy_uj / 1e6
