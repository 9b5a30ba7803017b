from __future__ import annotations

from datetime import UTC, datetime

import pytest

from accounting.billing.tariff import Tariff, TariffError, Tariffs, Window

WEEKDAYS = (0, 1, 2, 3, 4)
PEAK = Window(name="peak", days=WEEKDAYS, from_minute=8 * 60, to_minute=20 * 60, price=420_000_000)
NIGHT = Window(name="night", days=(4,), from_minute=22 * 60, to_minute=6 * 60, price=100_000_000)


def hour_us(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1_000_000


def rate(tariffs: Tariffs, at: str) -> str:
    return tariffs.rates(hour_us(at))["standard"].name


def standard(*windows: Window) -> Tariff:
    return Tariff(name="standard", price=300_000_000, windows=windows)


def test_a_window_holds_in_local_time_summer_and_winter() -> None:
    berlin = Tariffs(tariffs=(standard(PEAK),), time_zone="Europe/Berlin")
    assert rate(berlin, "2026-07-01T06:00") == "standard/peak"  # 8:00 there
    assert rate(berlin, "2026-07-01T18:00") == "standard"  # 20:00
    assert rate(berlin, "2026-12-01T06:00") == "standard"  # 7:00
    assert rate(berlin, "2026-12-01T07:00") == "standard/peak"
    assert rate(berlin, "2026-12-05T07:00") == "standard"  # a Saturday


def test_a_window_past_midnight_belongs_to_the_day_it_begins() -> None:
    utc = Tariffs(tariffs=(standard(NIGHT),))
    times = ("2026-12-04T21", "2026-12-04T22", "2026-12-05T05", "2026-12-05T06", "2026-12-05T23")
    assert [rate(utc, f"{at}:00") for at in times] == [
        "standard", "standard/night", "standard/night", "standard", "standard"
    ]  # fmt: skip


def test_the_first_window_that_holds_counts() -> None:
    other = Window(name="other", days=WEEKDAYS, from_minute=0, to_minute=24 * 60, price=1)
    assert rate(Tariffs(tariffs=(standard(other, PEAK),)), "2026-12-01T09:00") == "standard/other"


def test_a_price_that_changes_within_an_hour_of_utc_is_refused() -> None:
    kolkata = Tariffs(tariffs=(standard(PEAK),), time_zone="Asia/Kolkata")
    with pytest.raises(TariffError, match="changes within the UTC hour 2026-12-01 02:00"):
        kolkata.rates(hour_us("2026-12-01T02:00"))
    assert kolkata.rates(hour_us("2026-12-01T05:00"))["standard"].name == "standard/peak"


def test_the_first_tariff_that_fits_project_and_model_counts() -> None:
    tariffs = Tariffs(
        tariffs=(
            Tariff(name="big", price=2, models=("llama-70b*",)),
            Tariff(name="lab", price=1, projects=("research", "lab-*")),
            Tariff(name="rest", price=3, projects=("*",)),
        )
    )
    asked = [
        ("lab-7", "llama-70b-fp8"),
        ("lab-7", "tiny"),
        ("web", None),
        (None, "tiny"),
        (None, "llama-70b"),
    ]
    found = [tariffs.tariff_of(project, model) for project, model in asked]
    assert [None if t is None else t.name for t in found] == ["big", "lab", "rest", None, "big"]
