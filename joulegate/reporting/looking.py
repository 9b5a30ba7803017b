"""What `diagnose` and `capacity` have in common: the time to look through, and how joules are written."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

import click
from rich.console import Console

Command = TypeVar("Command", bound=Callable[..., Any])

_SECONDS = {"m": 60, "h": 3600, "d": 86_400}
_UNITS = (("MJ", 1e6), ("kJ", 1e3), ("J", 1.0))
PIPE_WIDTH = 150
"""A pipe has no width of its own."""


def window_options(command: Command) -> Command:
    """--last, or --from and --to."""
    for option in (
        click.option("--to", "end", metavar="TIME", help="Up to this UTC time; now."),
        click.option("--from", "start", metavar="TIME", help="From this UTC time on: 2026-11-23T14:00."),
        click.option("--last", metavar="SPAN", help="The time before --to, such as 30m, 6h or 7d; 1h."),
    ):
        command = option(command)
    return command


def window_us(last: str | None, start: str | None, end: str | None) -> tuple[int, int]:
    """[begin, end) in UTC microseconds. Raises click.UsageError."""
    if last is not None and start is not None:
        raise click.UsageError("give --last or --from, not both")
    t1_us = time.time_ns() // 1000 if end is None else _time_us(end)
    if start is not None:
        t0_us = _time_us(start)
    else:
        found = re.fullmatch(r"(\d+)([mhd])", last or "1h")
        if found is None or int(found[1]) == 0:
            raise click.UsageError("write --last as 30m, 6h or 7d")
        t0_us = t1_us - int(found[1]) * _SECONDS[found[2]] * 1_000_000
    if t0_us >= t1_us:
        raise click.UsageError("--from is not before --to")
    return t0_us, t1_us


def _time_us(text: str) -> int:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise click.UsageError(f"{text} is no time: write one as 2026-11-23 or 2026-11-23T14:00") from error
    return round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1e6)


def when(t0_us: int, t1_us: int) -> str:
    first, last = (datetime.fromtimestamp(t_us // 1_000_000, UTC) for t_us in (t0_us, t1_us))
    return f"{first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M} UTC"


def joules(energy_uj: int | None) -> str:
    """With three digits and the unit that fits; a dash where it is not known."""
    if energy_uj is None:
        return "-"
    value = energy_uj / 1e6
    unit, size = next((pair for pair in _UNITS if abs(value) >= pair[1]), _UNITS[-1])
    return f"{value / size:,.3g} {unit}" if abs(value / size) < 1000 else f"{value / size:,.0f} {unit}"


def console() -> Console:
    """As wide as the terminal."""
    made = Console(highlight=False)
    if not made.is_terminal and "COLUMNS" not in made._environ:
        made.width = PIPE_WIDTH
    return made
