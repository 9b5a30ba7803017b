"""The worked example of docs/billing.md: one day of one GPU, two projects."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from accounting.billing.source import day_us
from accounting.billing.tariff import HOUR_US
from accounting.records import BookEntry, Output, RequestRecord
from accounting.store.engine import connect, migrate
from accounting.store.writer import StoreWriter
from proxy.settings import Settings
from tests.accounting.store.examples import book, record

PAGE = (Path(__file__).parents[3] / "docs" / "billing.md").read_text()
DAY_US = day_us("2026-11-23")  # a Monday
KWH_UJ = 3_600_000_000_000


def block(kind: str, number: int = 0) -> str:
    """A code block of the page."""
    found = re.findall(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL)
    return str(found[number])


def settings() -> Settings:
    """As written on the page."""
    written = yaml.safe_load(block("yaml"))
    return Settings.model_validate({"backends": [{"id": "a", "url": "http://127.0.0.1:9"}], **written})


def used(number: int, hour: int, project: str, model: str, energy_uj: int) -> RequestRecord:
    at_us = DAY_US + hour * HOUR_US
    return record(
        number, tenant=project, model=model, started_us=at_us, finished_us=at_us, energy_uj=energy_uj,
        prefill_uj=0, decode_uj=energy_uj, shares=[],
    )  # fmt: skip


def booked(hour: int, requests_uj: int, idle_uj: int, unobserved_uj: int = 0) -> BookEntry:
    t0_us = DAY_US + hour * HOUR_US
    return book(
        0, t0_us=t0_us, t1_us=t0_us + HOUR_US, covered_us=HOUR_US, requests_uj=requests_uj, idle_uj=idle_uj,
        unobserved_uj=unobserved_uj, unmeasured_uj=0, measured_uj=requests_uj + idle_uj + unobserved_uj,
    )  # fmt: skip


OUTPUTS: list[Output] = [
    used(1, 10, "lab", "llama", 2 * KWH_UJ + 1),
    used(2, 10, "web", "llama", KWH_UJ // 2),
    used(3, 21, "web", "qwen", KWH_UJ // 3),
    booked(3, 0, KWH_UJ),
    booked(10, 2 * KWH_UJ + 1 + KWH_UJ // 2, KWH_UJ // 10, KWH_UJ // 20),
    booked(21, KWH_UJ // 3, KWH_UJ // 7),
]


def store(directory: Path) -> str:
    """The URL of a store with the example in it."""
    url = f"sqlite:///{directory}/joulegate.db"
    engine = connect(url)
    migrate(engine)
    writer = StoreWriter(engine, "journal-1")
    writer.put(OUTPUTS, segment=0)
    assert writer.close(timeout_s=20)
    engine.dispose()
    return url
