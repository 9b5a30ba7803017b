"""The demo's findings: what each request cost, that the books balance, where to look next."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table

from joulegate.demo.load import USUAL, Sent
from joulegate.demo.tables import Column, table

SETTLE_S = 15.0
POLL_S = 0.1
COLUMNS = (
    Column("request", 9, text=True),
    Column("tenant", 4, text=True),
    Column("kind", text=True),
    Column("status", 6, text=True),
    Column("prompt", 5),
    Column("output", 2),
    Column("s", 7),
    Column("prefill J", 3),
    Column("decode J", 3),
    Column("total J"),
    Column("±", 1),
    Column("J/token", 8),
    Column("true J", 1),
)
SUM = ((" ", "measured"), ("=", "requests"), ("+", "idle"), ("+", "unobserved"), ("+", "unmeasured"))


def show(console: Console, url: str, engine_url: str, sent: Sequence[Sent]) -> None:
    """Print it all. `url` is the proxy's; the simulated engine is asked only for the truth it keeps."""
    truth = {
        r["request_id"]: r["energy_uj"] / 1e6
        for r in httpx.get(f"{engine_url}/simulator/truth").json()["data"]
    }
    with httpx.Client(base_url=url, timeout=10.0) as client:
        with console.status("waiting for the final figures"):
            records, books = _settled(client, sent)
        kinds = {one.ask.request_id: one.ask.kind for one in sent}
        console.print(_requests(records, kinds, truth, console.width))
        _tenants(console, records)
    _books(console, books)
    _balance(console, books["total"], records)
    _error(console, records, truth)
    _next_steps(console)


def _settled(client: httpx.Client, sent: Sequence[Sent]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Poll until every request has its final record and what came late is in them, within reason.

    The records, and the books.
    """
    deadline = time.monotonic() + SETTLE_S
    while True:
        answers = [client.get(f"/v1/energy/requests/{one.ask.request_id}") for one in sent]
        told = [answer.json() for answer in answers if answer.status_code == 200]
        records = [record for record in told if record["state"] == "final"]
        books: dict[str, Any] = client.get("/v1/energy/books").json()
        whole = len(records) == len(sent) and _charged(records) == books["total"]["requests_uj"]
        if whole or time.monotonic() > deadline:
            return sorted(records, key=lambda record: record["finished_at"]), books
        time.sleep(POLL_S)


def _charged(records: list[dict[str, Any]]) -> int:
    return sum(record["energy_uj"] or 0 for record in records)


def _requests(
    records: list[dict[str, Any]], kinds: dict[str, Any], truth: dict[str, float], width: int
) -> Table:
    rows = [
        [
            r["request_id"][:8],
            r["tenant"],
            kinds[r["request_id"]],
            r["status"],
            _whole(r["prompt_tokens"]),
            _whole(r["completion_tokens"]),
            _number(r["finished_at"] - r["started_at"], 2),
            _number(r["prefill_joules"]),
            _number(r["decode_joules"]),
            _number(r["energy_joules"]),
            _number(r["uncertainty_joules"]),
            _number(r["joules_per_output_token"], 2),
            _number(truth.get(r["request_id"])),
        ]
        for r in records
    ]
    return table(
        "Energy per request (simulated GPU)",
        COLUMNS,
        rows,
        width,
        colours=[
            "" if r["status"] == "ok" else "yellow" if r["status"] == "aborted" else "red" for r in records
        ],
        caption="± is one standard deviation, estimated. true J is what only the simulator can know.",
    )


def _tenants(console: Console, records: list[dict[str, Any]]) -> None:
    sums: dict[str, tuple[int, float]] = {}
    for r in records:
        count, joules = sums.get(r["tenant"], (0, 0.0))
        sums[r["tenant"]] = count + 1, joules + (r["energy_joules"] or 0.0)
    rows = [
        [tenant, str(count), _number(joules), _number(joules / count)]
        for tenant, (count, joules) in sorted(sums.items(), key=lambda item: -item[1][1])
    ]
    columns = (Column("tenant", text=True), Column("requests"), Column("J"), Column("J/request"))
    console.print()
    console.print(table("By tenant", columns, rows, console.width))
    console.print()


def _books(console: Console, books: dict[str, Any]) -> None:
    """Each device's as a sum, one figure below the other: they are long."""
    for row in books["data"]:
        console.print(f"The books of {row['gpu']}, in microjoules")
        for sign, name in SUM:
            value = row[f"{name}_uj"]
            console.print(f" {sign} {name:<10} {'-' if value is None else f'{value:,}':>17}")
        console.print(" balanced: " + ("[green]yes[/green]" if row["balanced"] else "[red]NO[/red]"))


def _balance(console: Console, total: dict[str, Any], records: list[dict[str, Any]]) -> None:
    charged = _charged(records)
    booked = total["requests_uj"]
    verdict = "[green]equal[/green]" if charged == booked else f"[red]differ by {charged - booked:,}[/red]"
    console.print(
        f"Sum over the {len(records)} records: {charged:,} µJ; booked to requests: {booked:,} µJ; {verdict}."
    )


def _error(console: Console, records: list[dict[str, Any]], truth: dict[str, float]) -> None:
    """The error against the simulator's truth: of requests that cost a joule or more."""
    pairs = [(r["energy_joules"], truth.get(r["request_id"], 0.0)) for r in records if r["status"] == "ok"]
    errors = sorted(abs(ours - true) / true for ours, true in pairs if ours is not None and true >= 1.0)
    if errors:
        middle, most = errors[len(errors) // 2], errors[int(len(errors) * 0.9)]
        console.print(
            f"Against the simulator's truth: median error {middle:.0%}, nine in ten within {most:.0%}."
        )
    if errors and len(records) < USUAL:
        console.print(
            f"With {len(records)} requests the work model has only begun to learn: "
            f"the README's errors are those of the usual {USUAL}."
        )


def _next_steps(console: Console) -> None:
    console.print(
        "\nWhere to look next"
        "\n  in front of your own engine:  joulegate serve --backend http://127.0.0.1:8000"
        "\n  one request's joules:         GET /v1/energy/requests/{x-request-id}"
        "\n  the books by the minute:      GET /v1/energy/books?bucket_width_s=60"
        "\n  everything the API has:       /docs"
        "\n  keep this demo running:       joulegate demo --stay",
        highlight=False,
    )


def _number(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def _whole(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"
