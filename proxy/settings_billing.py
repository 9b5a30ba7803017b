"""The settings of what energy costs, who bears which of it, and its carbon; and the terms made of them."""

from __future__ import annotations

import re
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Literal, get_args
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field, field_validator, model_validator

from accounting.billing import tariff as agreed
from accounting.billing.carbon import CarbonError, Factors, Intensity, micrograms, read_series
from accounting.billing.terms import FRACTION_DIGITS, ONE, Bearer, Terms
from accounting.billing.units import FACTOR_DIGITS, PRICE_DIGITS, scaled
from proxy.settings_base import CURRENCY, Group

Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
DAYS: tuple[Day, ...] = get_args(Day)
Price = Annotated[Decimal, Field(ge=0, allow_inf_nan=False, decimal_places=PRICE_DIGITS)]
Grams = Annotated[Decimal, Field(ge=0, allow_inf_nan=False, decimal_places=FACTOR_DIGITS)]
Part = Annotated[Decimal, Field(ge=0, le=1, decimal_places=FRACTION_DIGITS)]
WHO = "operator: nobody is charged for it; by_use: projects, by the energy of their requests that UTC day;"
WHO += " by_reservation: projects, by billing.reservations."


def _minute(value: object) -> int:
    """Minutes into the day. YAML itself reads an unquoted 20:00 as the integer 1200, in base 60."""
    if isinstance(value, int) and 0 <= value <= 1440:
        minute = value
    elif isinstance(value, str) and (found := re.fullmatch(r"(\d\d?):([0-5]\d)", value)):
        minute = 60 * int(found[1]) + int(found[2])
    else:
        minute = -1
    if not 0 <= minute <= 1440 or minute % 15:
        raise ValueError("give a time such as 08:00, on a quarter of an hour")
    return minute


class TimeOfUse(Group):
    """A window of the local day with a price of its own. Past midnight where it ends before it begins."""

    name: str = Field(min_length=1, description="Name of the window in rates, such as peak.")
    days: list[Day] = Field(
        list(DAYS), min_length=1, description="Days on which it begins; all when left out."
    )
    start: int | str = Field(description="When it begins in billing.time_zone, such as 08:00.")
    end: int | str = Field(description="When it ends, such as 20:00 or 24:00.")
    price_per_kwh: Price = Field(description="Its price per kWh, in billing.currency.")

    @field_validator("start", "end")
    @classmethod
    def _is_a_time(cls, value: int | str) -> int | str:
        return _minute(value)


class Tariff(Group):
    name: str = Field(min_length=1, description="Name of the tariff in rates, invoices and exports.")
    price_per_kwh: Price = Field(description="Price per kWh, in billing.currency, where no window holds.")
    windows: list[TimeOfUse] = Field([], description="Times of use with other prices; the first that holds.")
    projects: list[str] | None = Field(
        None, description="Projects it is for, as patterns such as lab-*; all."
    )
    models: list[str] | None = Field(None, description="Models it is for, as patterns; all when left out.")


class Billing(Group):
    """What energy costs and who bears it."""

    currency: str | None = Field(
        None, pattern=CURRENCY, description="ISO 4217 code, such as EUR; nothing is priced when left out."
    )
    time_zone: str = Field("UTC", description="Where the windows of tariffs are local time.")
    tariffs: list[Tariff] = Field(
        [], description="Prices; the first that fits project and model counts. Nothing is priced without."
    )
    idle: Bearer = Field("operator", description=f"Who bears energy drawn while no request ran. {WHO}")
    unattributed: Bearer = Field(
        "operator", description="Who bears what the books give to no request and not to idle. As above."
    )
    overhead: Bearer = Field(
        "operator", description="Who bears the building's energy, (pue - 1) times the rest. As above."
    )
    host: bool = Field(False, description="Whether the energy of hosts is charged for, beside that of GPUs.")
    reservations: dict[str, Part] = Field(
        {}, description="By project, the part of the machines reserved for it, such as 0.25."
    )
    issuer: str = Field("joulegate", min_length=1, description="Who stands on invoices as their sender.")

    @model_validator(mode="after")
    def _fits_together(self) -> Billing:
        names = [tariff.name for tariff in self.tariffs]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"tariffs: the name {twice[0]!r} is used twice")
        if self.tariffs and self.currency is None:
            raise ValueError("give the currency of the tariffs")
        if sum(self.reservations.values()) > 1:
            raise ValueError("reservations: together more than 1")
        if "by_reservation" in (self.idle, self.unattributed, self.overhead) and not self.reservations:
            raise ValueError("by_reservation needs reservations")
        try:
            ZoneInfo(self.time_zone)
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise ValueError(f"time_zone: this machine knows no {self.time_zone!r}") from error
        return self


class Carbon(Group):
    """Grams of CO2 equivalent. By location and by market are kept apart; what is left out is not known."""

    location_g_per_kwh: Grams | None = Field(None, description="Location-based factor: that of the grid.")
    market_g_per_kwh: Grams | None = Field(None, description="Market-based factor: that of the contracts.")
    file: Path | None = Field(
        None,
        description="CSV file with a time series: start (UTC), location_g_per_kwh, market_g_per_kwh. A row"
        " holds until the next one, for a day at most; where it says nothing the two above do.",
    )
    embodied_g_per_gpu_hour: Grams | None = Field(
        None, description="Of making one GPU (and what it stands in), over the hours of its life; SCI's M."
    )

    @field_validator("file")
    @classmethod
    def _can_be_read(cls, file: Path | None) -> Path | None:
        if file is not None:
            try:
                read_series(file)
            except CarbonError as error:
                raise ValueError(str(error)) from error
        return file


def terms_of(billing: Billing, carbon: Carbon, pue: float | None) -> Terms:
    """What was agreed, as the arithmetic takes it."""
    tariffs = agreed.Tariffs(
        tariffs=tuple(_tariff(tariff) for tariff in billing.tariffs), time_zone=billing.time_zone
    )
    embodied = carbon.embodied_g_per_gpu_hour
    return Terms(
        currency=billing.currency,
        tariffs=tariffs,
        idle=billing.idle,
        unattributed=billing.unattributed,
        overhead=billing.overhead,
        pue=None if pue is None else round(pue * ONE),
        host=billing.host,
        reservations={name: scaled(part, FRACTION_DIGITS) for name, part in billing.reservations.items()},
        embodied=None if embodied is None else micrograms(embodied),
        issuer=billing.issuer,
    )


def intensity_of(carbon: Carbon) -> Intensity:
    """The carbon factors, with the time series of the file. Raises CarbonError."""
    given = (carbon.location_g_per_kwh, carbon.market_g_per_kwh)
    fixed = Factors(*(None if factor is None else micrograms(factor) for factor in given))
    return Intensity(fixed, () if carbon.file is None else read_series(carbon.file))


def _tariff(tariff: Tariff) -> agreed.Tariff:
    return agreed.Tariff(
        name=tariff.name,
        price=scaled(tariff.price_per_kwh, PRICE_DIGITS),
        windows=tuple(
            agreed.Window(
                name=window.name,
                days=tuple(DAYS.index(day) for day in window.days),
                from_minute=_minute(window.start),
                to_minute=_minute(window.end),
                price=scaled(window.price_per_kwh, PRICE_DIGITS),
            )
            for window in tariff.windows
        ),
        projects=None if tariff.projects is None else tuple(tariff.projects),
        models=None if tariff.models is None else tuple(tariff.models),
    )
