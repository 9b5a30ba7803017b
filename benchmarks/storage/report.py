"""Aims, the table for a terminal, and docs/store-figures.md."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

from rich.console import Console
from rich.table import Table

from benchmarks.storage.measure import Figures

COMMAND = "python -m benchmarks.store"
AIM_PER_S = {"sqlite": 5_000.0, "postgresql": 3_000.0}
"""Requests that one core writes in a second, the server's work included. (10,000 into PostgreSQL would be a
good figure; its dozen indexes alone take more of a core than that leaves.)"""
AIM_SUMS_PART = 0.2
"""Usage of thirty days from the sums, of the time it takes from the requests, at most."""
AIM_SUMS_MS, AIM_BY_ID_MS = 100.0, 5.0

ROWS = (
    ("requests stored", "requests", "{:,.0f}"),
    ("written by one core, requests/s", "core_per_s", "{:,.0f}"),
    ("CPU per request: this process, us", "client_us", "{:,.0f}"),
    ("CPU per request: the database's, us", "server_us", "{:,.0f}"),
    ("written, requests/s of wall time", "wall_per_s", "{:,.0f}"),
    ("30 days of usage by model and key, from sums, ms", "usage_sums_ms", "{:,.1f}"),
    ("the same from the requests, ms", "usage_rows_ms", "{:,.1f}"),
    ("one request by joulegate's id, ms", "by_uid_ms", "{:,.2f}"),
    ("one request by its x-request-id, ms", "by_request_id_ms", "{:,.2f}"),
    ("newest 100 of a tenant, ms", "page_ms", "{:,.1f}"),
    ("size, bytes per request", "bytes_per_request", "{:,.0f}"),
    ("migrated down to before the sums, s", "down_s", "{:,.1f}"),
    ("migrated up again, s", "up_s", "{:,.1f}"),
    ("deleted for its age, requests/s", "deleted_per_s", "{:,.0f}"),
)


def missed(all_figures: Sequence[Figures]) -> list[str]:
    found = []
    for one in all_figures:
        aims = (
            ("requests/s of one core", one.core_per_s, AIM_PER_S[one.database], True),
            ("usage from sums, ms", one.usage_sums_ms, AIM_SUMS_MS, False),
            ("usage from sums, part", one.usage_sums_ms / one.usage_rows_ms, AIM_SUMS_PART, False),
            ("one request by joulegate's id, ms", one.by_uid_ms, AIM_BY_ID_MS, False),
        )
        for what, value, aim, more in aims:
            if (value < aim) if more else (value > aim):
                found.append(f"{one.database}: {what}: {value:,.2f}, aim {aim:,.2f}")
    return found


def show(all_figures: Sequence[Figures]) -> None:
    table = Table(title="The store")
    table.add_column("")
    for one in all_figures:
        table.add_column(one.database, justify="right")
    for title, name, form in ROWS:
        table.add_row(title, *(form.format(getattr(one, name)) for one in all_figures))
    console = Console(highlight=False)
    console.width = max(console.width, 100)
    console.print(table)


def page(all_figures: Sequence[Figures], machine: str, today: date, options: str) -> str:
    names = [one.database for one in all_figures]
    lines = [
        "# What the store costs",
        "",
        f"Written by `{COMMAND} {options}` on {today.isoformat()}. {machine}",
        "",
        "Requests of thirty days, five models, ten keys, each with one share; written in transactions of"
        " 2,000 as the service does, with their sums by hour and day. PostgreSQL runs on the same machine,"
        " with `fsync` off. `By one core` is over CPU time of this process and the database's. Times of"
        " questions are the best of five.",
        "",
        "| | " + " | ".join(names) + " |",
        "|---|" + "---:|" * len(names),
    ]
    for title, name, form in ROWS:
        lines.append(
            f"| {title} | " + " | ".join(form.format(getattr(one, name)) for one in all_figures) + " |"
        )
    part = "; ".join(f"{one.database} {one.usage_sums_ms / one.usage_rows_ms:.4f}" for one in all_figures)
    lines += [
        "",
        f"Usage from the sums over usage from the requests: {part}.",
        "",
        "Migrating up computes the sums from all rows; on PostgreSQL it makes the partitions too, which moves"
        " no row, and checks the foreign keys again. A larger table takes proportionally longer. There"
        " days that have partitions are dropped whole when they are old; here the migrations left one table,"
        " whose rows are deleted in small transactions.",
        "",
        "Not measured: other gateways' spend logs on the same server, and 100 million rows.",
    ]
    return "\n".join(lines) + "\n"
