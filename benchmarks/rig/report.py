"""Aims, the table for a terminal, and docs/relay.md."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

from rich.console import Console
from rich.table import Table

from benchmarks.rig.measure import HANG_UP_S, STREAMS, Figures, Plan

COMMAND = "python -m benchmarks.relay --full"
WIDTH = 140
"""Characters of the table where the output is no terminal."""

OURS, WIRE = "joulegate", "nginx"
CHUNK_FACTOR = 1.5
"""CPU per chunk, joulegate's over nginx's, at most."""
GROWTH_MIB = 2.0
"""Memory may grow by this much in the second half of the soak: the allocator's noise."""


@dataclass(frozen=True)
class Column:
    """A figure of the table. `less` is better, or more is. Compared with the peers only if `aim`."""

    name: str
    title: str
    digits: int = 0
    less: bool = True
    aim: bool = True
    scale: float = 1.0

    def value(self, figures: Figures) -> float | None:
        found = getattr(figures, self.name)
        return None if found is None else found * self.scale

    def text(self, figures: Figures | None) -> str:
        value = None if figures is None else self.value(figures)
        return "-" if value is None else f"{value:,.{self.digits}f}"


COLUMNS = (
    Column("request_cpu_us", "CPU µs/request"),
    Column("requests_per_s", "requests/s", less=False),
    Column("chunk_cpu_us", "CPU µs/chunk", 1),
    Column("chunks_per_s", "chunks/s", less=False),
    Column("added_p50_us", "added p50, ms", 2, scale=1e-3),
    Column("added_p99_us", "added p99, ms", 2, scale=1e-3),
    Column("idle_mib", "MiB at idle streams"),
    Column("chunks_per_read", "chunks/read", 2, aim=False),
    Column("soak_mib_per_min", "MiB/min", 2, aim=False),
)


@dataclass(frozen=True, kw_only=True)
class Row:
    """A system; without figures where it could not be measured, and then why."""

    name: str
    title: str
    figures: Figures | None = None
    why: str | None = None


def misses(rows: list[Row]) -> list[str]:
    """The aims that are missed: ahead of every peer but nginx, near nginx per chunk, nothing broken."""
    by_name = {row.name: row.figures for row in rows if row.figures is not None}
    ours = by_name.get(OURS)
    if ours is None:
        return [f"{OURS} was not measured: {next((row.why for row in rows if row.name == OURS), None)}"]
    missed = list(ours.faults)
    if ours.hangs_up is False:
        missed.append(f"the engine still had streams {HANG_UP_S:.0f} s after their clients left")
    for column in (column for column in COLUMNS if column.aim):
        mine = column.value(ours)
        if mine is None:
            missed.append(f"{column.title}: not measured")
            continue
        for name, figures in by_name.items():
            theirs = column.value(figures)
            if name in (OURS, WIRE) or theirs is None:
                continue
            if (mine > theirs) if column.less else (mine < theirs):
                missed.append(f"{column.title}: {column.text(ours)}, {name} {column.text(figures)}")
    wire = by_name.get(WIRE)
    if wire is not None and wire.chunk_cpu_us is not None and ours.chunk_cpu_us is not None:
        factor = ours.chunk_cpu_us / wire.chunk_cpu_us
        if factor > CHUNK_FACTOR:
            missed.append(f"CPU per chunk is {factor:.2f} times nginx's, at most {CHUNK_FACTOR} is the aim")
    if ours.soak_growth_mib is not None and ours.soak_growth_mib > GROWTH_MIB:
        missed.append(f"memory grew by {ours.soak_growth_mib:.1f} MiB in the second half of the soak")
    return missed


def show(rows: list[Row]) -> None:
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    table = Table(title="the relay on one core, beside other proxies")
    for head in HEADS:
        table.add_column(head, justify="left" if head == "system" else "right")
    for row in rows:
        table.add_row(*_cells(row))
    console.print(table)
    for line in remarks(rows):
        console.print(line, markup=False)


HEADS = ("system", *(column.title for column in COLUMNS))


def _cells(row: Row) -> list[str]:
    return [row.title, *(column.text(row.figures) for column in COLUMNS)]


def remarks(rows: list[Row]) -> list[str]:
    """What no figure tells: who is missing and why, who leaves streams behind, what went wrong."""
    lines = []
    for row in rows:
        if row.figures is None:
            lines.append(f"{row.title} is missing: {row.why}")
            continue
        if row.figures.hangs_up is False:
            late = f"{HANG_UP_S:.0f} s after their clients had left"
            lines.append(f"{row.title}: the engine still had quiet streams {late}")
        lines += [f"{row.title}: {fault}" for fault in row.figures.faults]
    return lines


def markdown(rows: list[Row]) -> str:
    lines = [HEADS, ("---",) * len(HEADS), *(_cells(row) for row in rows)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def page(rows: list[Row], plan: Plan, rounds: int, today: date, machine: str) -> str:
    """docs/relay.md."""
    missed = misses(rows)
    verdict = "All aims were met." if not missed else "Missed:\n" + "\n".join(f"- {one}" for one in missed)
    remarked = "".join(f"- {line}\n" for line in remarks(rows))
    soak = f"{plan.soak_s:.0f} s" if plan.soak_s else "not in this run"
    return f"""# The relay beside other proxies

Made by `{COMMAND}` on {today.isoformat()}, {machine}. Do not edit.

{markdown(rows)}

{remarked}
Aims: on each figure ahead of every peer but nginx, which does nothing but pass bytes on; CPU per chunk within
{CHUNK_FACTOR} times nginx's; no answer wrong, memory flat. {verdict}

## What is measured
- **The same for all**: one proxy pinned to one core; load and a mock engine in one process on another.
  Medians over rounds ({rounds}), each with a fresh start. joulegate as `joulegate serve` runs: metered (by a
  simulated GPU), journal, ledger and SQLite store on, energy in every answer. The peers without logs, keys
  and telemetry.
- **CPU µs/request**, **requests/s**: user and system time of all the proxy's processes, and answers, over
  {plan.window_s:g} s with 64 requests in flight that are not streamed.
- **CPU µs/chunk**: {STREAMS} streams, each with a token every 10 ms, usage asked for; without their starts
  and ends. *chunks/read*: how many chunks the client found at once; above 1 they were held up on the way.
- **chunks/s**: {STREAMS} streams; the engine sends the next token once the client has got the one before.
- **added p50, p99**: from request to answer, one at a time, less the same without a proxy.
- **MiB at idle streams**: all the proxy's processes with {plan.idle_streams:,} streams that say nothing.
- **MiB/min**: slope of that memory over the second half of a soak ({soak}) with 50 clients, half of their
  requests streamed. It may grow by {GROWTH_MIB:g} MiB there.
- **Right answers**: each chunk names its request and its place; the load checks that every answer is whole,
  in order, ended by [DONE], with the usage of its own tokens. Where one was not, it is said under the table.

## What is not
- A real engine, TLS, a network, more than one core. Answers are short: what costs per byte hardly shows.
- Latency under load: on a machine with other work it tells more of that work than of the proxy.
"""
