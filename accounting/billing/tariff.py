"""What a kWh costs: by project, by model, by time of use."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, tzinfo
from fnmatch import fnmatchcase
from functools import cached_property
from typing import NamedTuple
from zoneinfo import ZoneInfo

import msgspec

HOUR_US = 3_600_000_000
DAY_US = 24 * HOUR_US
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class TariffError(Exception):
    """A tariff cannot be kept with sums by the hour. The message says which and why."""


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """A time of use: from `from_minute` to `to_minute` of the local day, on `days` (0: Monday).

    Where it ends no later than it begins it goes on past midnight; `days` are those on which it begins.
    """

    name: str
    days: tuple[int, ...]
    from_minute: int
    to_minute: int
    price: int
    """Billionths of the currency per kWh."""

    def holds(self, weekday: int, minute: int) -> bool:
        if self.from_minute < self.to_minute:
            return weekday in self.days and self.from_minute <= minute < self.to_minute
        before = (weekday - 1) % 7
        return (weekday in self.days and minute >= self.from_minute) or (
            before in self.days and minute < self.to_minute
        )


class Tariff(msgspec.Struct, frozen=True, kw_only=True):
    """Prices for the projects and models whose names one of its patterns fits (None: for all).

    The first window that holds sets the price, else `price` does.
    """

    name: str
    price: int
    """Billionths of the currency per kWh."""
    windows: tuple[Window, ...] = ()
    projects: tuple[str, ...] | None = None
    models: tuple[str, ...] | None = None

    def fits(self, project: str | None, model: str | None) -> bool:
        return _fits(self.projects, project) and _fits(self.models, model)


def _fits(patterns: tuple[str, ...] | None, name: str | None) -> bool:
    return patterns is None or (name is not None and any(fnmatchcase(name, p) for p in patterns))


class Rate(NamedTuple):
    """The price at some time: `name` is TARIFF or TARIFF/WINDOW, `price` billionths of currency per kWh."""

    name: str
    price: int


class Tariffs(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """All tariffs, in order: the first that fits counts."""

    tariffs: tuple[Tariff, ...] = ()
    time_zone: str = "UTC"

    def tariff_of(self, project: str | None, model: str | None) -> Tariff | None:
        return next((tariff for tariff in self.tariffs if tariff.fits(project, model)), None)

    def rates(self, hour_us: int) -> dict[str, Rate]:
        """By tariff, the rate of the UTC hour that starts at `hour_us`.

        Raises TariffError where a price changes within the hour: energy is summed by the hour.
        """
        found = self._known.get(hour_us)
        if found is None:
            found = self._known[hour_us] = {
                tariff.name: self._rate(tariff, hour_us) for tariff in self.tariffs
            }
        return found

    def _rate(self, tariff: Tariff, hour_us: int) -> Rate:
        # Offsets of time zones are multiples of 15 minutes, and windows begin and end on such.
        start = _EPOCH + timedelta(microseconds=hour_us)
        quarters = [_rate_at(tariff, start + timedelta(minutes=m), self._zone) for m in (0, 15, 30, 45)]
        if any(rate != quarters[0] for rate in quarters):
            raise TariffError(
                f"the price of tariff {tariff.name!r} changes within the UTC hour {start:%Y-%m-%d %H}:00;"
                " let its windows begin and end on whole hours of UTC"
            )
        return quarters[0]

    @cached_property
    def _zone(self) -> tzinfo:
        return ZoneInfo(self.time_zone)

    @cached_property
    def _known(self) -> dict[int, dict[str, Rate]]:
        return {}


def _rate_at(tariff: Tariff, at: datetime, zone: tzinfo) -> Rate:
    local = at.astimezone(zone)
    minute = 60 * local.hour + local.minute
    for window in tariff.windows:
        if window.holds(local.weekday(), minute):
            return Rate(f"{tariff.name}/{window.name}", window.price)
    return Rate(tariff.name, tariff.price)
