"""What `joulegate keys` is told about keys and limits, within the bounds of the admin API."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

import click
from pydantic import ValidationError

from proxy.settings_faults import in_words

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}

NAMES = {
    "name": "NAME",
    "user_id": "--user",
    "models": "--model",
    "expires_at": "--expires-in",
    "grace_seconds": "--grace",
}
"""Of options that are called otherwise in the admin API."""

OUT_OF_BOUNDS = {
    "expires_at": "the key has to end before the year 10000",
    "grace_seconds": "give a year at most (366d)",
}
"""Where a bound of the admin API says nothing to whoever gives a span."""

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., None])


class Span(click.ParamType[float]):
    """A time such as `90s`, `12h`, `30d`; in seconds."""

    name = "span"

    def __init__(self, *, some: bool = False) -> None:
        """`some`: not 0."""
        self._some = some

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", str(value))
        if found is None:
            self.fail(f"{value!r} is no time: write it like 90s, 30m, 12h or 30d", param, ctx)
        span_s = float(found[1]) * UNITS[found[2]]
        if self._some and span_s == 0:
            self.fail(f"{value!r} is no time at all", param, ctx)
        return span_s


def limit_options(function: F) -> F:
    """The options for limits. Their bounds are those of `LimitsView`."""
    options = [
        click.option("--requests-per-minute", type=int, help="Requests in a minute."),
        click.option("--tokens-per-minute", type=int, help="Tokens of prompts and answers."),
        click.option("--parallel-requests", type=int, help="Requests under way at one time."),
        click.option("--joules-per-day", type=float, help="Budget for a day of UTC."),
        click.option("--joules-per-month", type=float, help="Budget for a month of UTC."),
    ]
    for option in reversed(options):
        function = option(function)
    return function


def checked(make: Callable[..., T], *values: Any, **named: Any) -> T:
    """What `make`, a model of the admin API, makes of these values.

    Raises click.BadParameter where the admin API would refuse them.
    """
    try:
        return make(*values, **named)
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
        place = [str(part) for part in detail["loc"] if part != "limits"] or ["name"]
        name = NAMES.get(place[0], f"--{place[0].replace('_', '-')}")
        message = OUT_OF_BOUNDS.get(place[0]) or in_words(detail)
        raise click.BadParameter(message, param_hint=f"'{name}'") from error
