"""Grams of CO2 equivalent per kWh, by location and by market, and the SCI.

The two are kept apart and never mixed (GHG Protocol, Scope 2 Guidance): the location-based factor is that of
the grid, the market-based one that of the contracts. What is not known is None.
"""

from __future__ import annotations

import csv
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import NamedTuple

from accounting.billing.units import CARBON_UNIT, FACTOR_DIGITS, scaled

COLUMNS = ("start", "location_g_per_kwh", "market_g_per_kwh")
MAX_GAP_US = 86_400_000_000
"""A row of a time series holds until the next one, but for no longer than this: then nothing is known."""


class CarbonError(Exception):
    """The file with factors cannot be used. The message says where and why."""


class Factors(NamedTuple):
    """Micrograms of CO2 equivalent per kWh. None where not known."""

    location: int | None = None
    market: int | None = None


UNKNOWN = Factors()


class Intensity:
    """The factors by time: a series, and `fixed` ones where it says nothing."""

    def __init__(self, fixed: Factors = UNKNOWN, series: Sequence[tuple[int, Factors]] = ()) -> None:
        """`series`: (from when on in UTC microseconds, factors), in order of time."""
        self._fixed = fixed
        self._starts = [start_us for start_us, _ in series]
        self._factors = [factors for _, factors in series]

    @property
    def known(self) -> bool:
        return bool(self._starts) or self._fixed != UNKNOWN

    @property
    def varies(self) -> bool:
        return bool(self._starts)

    def at(self, t_us: int) -> Factors:
        """The factors that hold at a time. Each comes from the series, else is the fixed one."""
        place = bisect_right(self._starts, t_us) - 1
        if place < 0 or t_us - self._starts[place] >= MAX_GAP_US:
            return self._fixed
        location, market = self._factors[place]
        return Factors(
            self._fixed.location if location is None else location,
            self._fixed.market if market is None else market,
        )


def read_series(path: Path) -> list[tuple[int, Factors]]:
    """A time series from a CSV file with the columns `COLUMNS`: UTC times in ISO 8601, g per kWh.

    An empty field is not known. Raises CarbonError.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return _rows(csv.reader(file), path)
    except OSError as error:
        raise CarbonError(f"{path}: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise CarbonError(f"{path} is no CSV file: {error}") from error


def _rows(lines: Iterable[list[str]], path: Path) -> list[tuple[int, Factors]]:
    series: list[tuple[int, Factors]] = []
    head: list[str] | None = None
    for number, line in enumerate(lines, 1):
        if head is None:
            head = line
            if "start" not in head or not set(head) <= set(COLUMNS):
                raise CarbonError(f"{path}: the first line has to name columns of {', '.join(COLUMNS)}")
            continue
        if len(line) != len(head):
            raise CarbonError(f"{path}, line {number}: {len(line)} fields where {len(head)} are named")
        fields = dict(zip(head, line, strict=True))
        try:
            start_us = _microseconds(fields["start"])
            factors = Factors(*(_micrograms(fields.get(name, "")) for name in COLUMNS[1:]))
        except InvalidOperation as error:
            raise CarbonError(f"{path}, line {number}: not a number") from error
        except ValueError as error:
            raise CarbonError(f"{path}, line {number}: {error}") from error
        if series and start_us <= series[-1][0]:
            raise CarbonError(f"{path}, line {number}: not later than the line before")
        series.append((start_us, factors))
    return series


def _microseconds(text: str) -> int:
    at = datetime.fromisoformat(text)
    if at.tzinfo is None:
        raise ValueError(f"{text} has no time zone; write {text}Z for UTC")
    return round(at.astimezone(UTC).timestamp()) * 1_000_000


def _micrograms(text: str) -> int | None:
    return micrograms(Decimal(text)) if text.strip() else None


def micrograms(g_per_kwh: Decimal) -> int:
    """A factor as it is held. Raises ValueError where it is negative or too fine."""
    if not g_per_kwh.is_finite() or g_per_kwh < 0:
        raise ValueError(f"{g_per_kwh} cannot be grams per kWh")
    return scaled(g_per_kwh, FACTOR_DIGITS)


def sci_g(operational: int | None, embodied: int | None, units: int) -> float | None:
    """Software Carbon Intensity, ((E x I) + M) / R in grams per unit (ISO/IEC 21031:2024).

    `operational` is E x I and `embodied` M, both in carbon units; `units` R. None where any is not known:
    without M it would be no SCI.
    """
    if operational is None or embodied is None or units <= 0:
        return None
    carbon: int = operational + embodied
    return carbon / (CARBON_UNIT * units)
