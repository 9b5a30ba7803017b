from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from accounting.billing.carbon import Factors
from accounting.billing.source import day_us
from accounting.billing.tariff import HOUR_US
from proxy.settings import Settings, SettingsError, load
from proxy.settings_billing import Carbon, intensity_of, terms_of

WHOLE = """
backends: [{id: a, url: "http://127.0.0.1:9"}]
pue: 1.2
billing:
  currency: EUR
  time_zone: Europe/Berlin
  idle: by_use
  overhead: by_reservation
  reservations: {lab: 0.25}
  tariffs:
    - name: lab
      price_per_kwh: 0.1
      projects: [lab]
    - name: standard
      price_per_kwh: "0.30"
      windows:
        - {name: peak, days: [mon, tue], start: 08:00, end: 20:00, price_per_kwh: 0.4275}
carbon: {location_g_per_kwh: 381, embodied_g_per_gpu_hour: 12.5}
"""


def written(tmp_path: Path, text: str) -> Settings:
    path = tmp_path / "joulegate.yaml"
    path.write_text(text)
    return load(path)


def test_terms_are_what_is_written(tmp_path: Path) -> None:
    settings = written(tmp_path, WHOLE)
    terms = terms_of(settings.billing, settings.carbon, settings.pue)
    assert (terms.currency, terms.pue, terms.embodied) == ("EUR", 1_200_000, 12_500_000)
    assert (terms.idle, terms.unattributed, terms.overhead) == ("by_use", "operator", "by_reservation")
    assert terms.reservations == {"lab": 250_000}
    lab, standard = terms.tariffs.tariffs
    assert (lab.price, lab.projects, standard.price, standard.projects) == (
        100_000_000,
        ("lab",),
        300_000_000,
        None,
    )
    (peak,) = standard.windows
    assert (peak.days, peak.from_minute, peak.to_minute, peak.price) == ((0, 1), 480, 1200, 427_500_000)
    intensity = intensity_of(settings.carbon)
    assert intensity.at(0) == Factors(381_000_000, None)


def test_without_any_of_it_nothing_is_priced_and_no_carbon_known(tmp_path: Path) -> None:
    settings = written(tmp_path, WHOLE.split("pue:")[0])
    terms = terms_of(settings.billing, settings.carbon, settings.pue)
    assert (terms.currency, terms.pue, terms.embodied, terms.tariffs.tariffs) == (None, None, None, ())
    assert not intensity_of(settings.carbon).known


@pytest.mark.parametrize(
    ("was", "becomes", "fault"),
    [
        ("currency: EUR", "currency: Euro", "billing.currency: give three capital letters, such as EUR"),
        ("  currency: EUR\n", "", "billing: give the currency of the tariffs"),
        ("Europe/Berlin", "Europe/Bärlin", "time_zone: this machine knows no"),
        ("name: lab", "name: standard", "the name 'standard' is used twice"),
        ("lab: 0.25", "lab: 0.6, web: 0.5", "reservations: together more than 1"),
        ("  reservations: {lab: 0.25}\n", "", "by_reservation needs reservations"),
        ("08:00", "08:10", "tariffs.1.windows.0.start: give a time such as 08:00"),
        ("0.4275", "-1", "price_per_kwh: Input should be greater than or equal to 0"),
    ],
)
def test_faults_are_told_with_their_place(tmp_path: Path, was: str, becomes: str, fault: str) -> None:
    assert was in WHOLE
    with pytest.raises(SettingsError) as raised:
        written(tmp_path, WHOLE.replace(was, becomes))
    assert fault in str(raised.value)


def test_a_series_holds_until_its_next_row_and_for_a_day_at_most(tmp_path: Path) -> None:
    file = tmp_path / "carbon.csv"
    file.write_text(
        "start,location_g_per_kwh,market_g_per_kwh\n"
        "2026-11-23T00:00Z,400,10\n2026-11-23T12:00:00+00:00,250.5,\n"
    )
    intensity = intensity_of(Carbon(file=file, market_g_per_kwh=7))
    start_us = day_us("2026-11-23")
    hours = {hour: intensity.at(start_us + hour * HOUR_US) for hour in (-1, 0, 11, 12, 35, 36)}
    assert hours == {
        -1: Factors(None, 7_000_000),
        0: Factors(400_000_000, 10_000_000),
        11: Factors(400_000_000, 10_000_000),
        12: Factors(250_500_000, 7_000_000),
        35: Factors(250_500_000, 7_000_000),
        36: Factors(None, 7_000_000),
    }


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("when,location_g_per_kwh\n", "the first line has to name columns"),
        ("start,location_g_per_kwh\n2026-11-23T00:00,4\n", "line 2: 2026-11-23T00:00 has no time zone"),
        ("start,location_g_per_kwh\n2026-11-23T00:00Z,dirty\n", "line 2: not a number"),
        ("start,location_g_per_kwh\n2026-11-23T00:00Z,-4\n", "line 2: -4 cannot be grams"),
        ("start,location_g_per_kwh\n2026-11-23T00:00Z\n", "line 2: 1 fields where 2 are named"),
        ("start,market_g_per_kwh\n2026-11-23T00:00Z,1\n2026-11-22T00:00Z,1\n", "line 3: not later"),
    ],
)
def test_a_file_that_cannot_be_used_says_where(tmp_path: Path, text: str, fault: str) -> None:
    file = tmp_path / "carbon.csv"
    file.write_text(text)
    with pytest.raises(ValidationError) as raised:
        Carbon(file=file)
    assert fault in str(raised.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=r"away\.csv: No such file"):
        Carbon(file=tmp_path / "away.csv")
