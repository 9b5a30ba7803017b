"""What the store costs: requests per second into SQLite and PostgreSQL, and what questions take.

    python -m benchmarks.store           100,000 requests
    python -m benchmarks.store --full    1,000,000 requests; writes docs/store-figures.md

PostgreSQL is the machine's, or that of the wheel which `make setup` installs, started for this on a free
port. The last line is one JSON object. Exit status 1 where an aim is missed (benchmarks/storage/report.py).
"""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import click

from accounting.store.engine import connect
from benchmarks.servers.postgres import NoPostgres, PostgresServer
from benchmarks.storage import report
from benchmarks.storage.measure import Figures, measure

DOCS = Path(__file__).parents[1] / "docs"
QUICK, FULL = 100_000, 1_000_000


@click.command(help=__doc__)
@click.option("--full", is_flag=True, help="A million requests; writes docs/store-figures.md.")
@click.option("--requests", type=click.IntRange(min=2_000), help="So many requests.")
def main(full: bool, requests: int | None) -> None:
    count = requests or (FULL if full else QUICK)
    now_us = time.time_ns() // 1000
    busy = os.getloadavg()[0]
    found: list[Figures] = []
    with tempfile.TemporaryDirectory(prefix="joulegate-store-") as place:
        found.append(_measured(f"sqlite:///{place}/store.db", count, now_us, lambda: 0.0))
    without = None
    try:
        with PostgresServer({"shared_buffers": "256MB"}) as server:
            found.append(_measured(server.url(), count, now_us, server.cpu_s))
    except NoPostgres as error:
        without = str(error)
        click.echo(f"without PostgreSQL: {error}")
    report.show(found)
    missed = report.missed(found)
    for line in missed:
        click.echo(f"MISSED {line}")
    if full:
        cores = os.cpu_count()
        machine = (
            f"{cores} cores ({platform.processor() or platform.machine()}), load {busy:.1f} at the start."
        )
        today = datetime.now(UTC).date()
        (DOCS / "store-figures.md").write_text(report.page(found, machine, today, " ".join(sys.argv[1:])))
    told = {"benchmark": "store", "load": busy, "without_postgres": without, "missed": missed}
    click.echo(json.dumps({**told, "figures": [asdict(one) for one in found]}))
    sys.exit(1 if missed else 0)


def _measured(url: str, count: int, now_us: int, server_cpu_s: Callable[[], float]) -> Figures:
    engine = connect(url)
    try:
        return measure(engine, count, now_us, server_cpu_s)
    finally:
        engine.dispose()


if __name__ == "__main__":
    main()
