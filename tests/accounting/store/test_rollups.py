"""Sums by hour and day are those of the rows, whatever was stored, twice or corrected."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest
from sqlalchemy import select

from accounting.events import Media, MediaKind
from accounting.records import BookEntry, Correction, GpuShare, Output, RequestRecord
from accounting.store.queries import TooManyRows
from accounting.store.rollups import Bucket, Dimension, UsageReader, UsageRow, from_requests
from accounting.store.schema import BookSum, StoredBook, UsageSum
from accounting.store.sums import DAY_US, HOUR_US
from accounting.store.writer import StoreWriter
from tests.accounting.store.databases import Database
from tests.accounting.store.examples import T0_US, book, correction, record

SOON_S = 20.0
DAY0_US = T0_US // DAY_US * DAY_US
ALWAYS = (DAY0_US, DAY0_US + 10 * DAY_US)
GROUPS: tuple[tuple[Dimension, ...], ...] = (
    (),
    ("model",),
    ("tenant", "status"),
    ("backend", "simulated"),
    ("media_kind", "media_size"),
)


def random_record(chance: random.Random, number: int) -> RequestRecord:
    def maybe(value: int) -> int | None:
        return None if chance.random() < 0.2 else value

    finished_us = DAY0_US + chance.randrange(3 * DAY_US)
    prefill_uj, decode_uj = chance.randrange(10**9), chance.randrange(10**12)
    measured = chance.random() < 0.8
    kinds: list[MediaKind | None] = ["image", "video", None]
    kind = chance.choice(kinds)
    media = Media(
        kind=kind,
        count=chance.randrange(1, 5),
        width=maybe(64),
        height=64,
        frames=maybe(chance.randrange(100)) if kind == "video" else None,
        fps=chance.choice([None, 8.0, 24.0, 29.97]) if kind == "video" else None,
    ) if kind else None  # fmt: skip
    return record(
        number,
        media=media,
        model=chance.choice(["llama", "qwen", "größe", None]),
        tenant=chance.choice(["acme", None]),
        backend=chance.choice(["main", "other"]),
        status=chance.choice(["ok", "aborted"]),
        simulated=chance.random() < 0.5,
        started_us=finished_us - 1_000,
        first_token_us=None,
        finished_us=finished_us,
        prompt_tokens=maybe(chance.randrange(1000)),
        cached_tokens=maybe(chance.randrange(1000)),
        completion_tokens=maybe(chance.randrange(1000)),
        prefill_uj=prefill_uj if measured else None,
        decode_uj=decode_uj if measured else None,
        energy_uj=prefill_uj + decode_uj if measured else None,
        dynamic_uj=maybe(chance.randrange(10**9)) if measured else None,
        host_uj=maybe(chance.randrange(10**9)),
        unmeasured_us=chance.choice([0, 0, 1_000]),
        project=chance.choice(["p1", None]),
        shares=[GpuShare(gpu="GPU-a", prefill_uj=prefill_uj, decode_uj=decode_uj)] if measured else [],
    )


def random_correction(chance: random.Random, of: RequestRecord) -> Correction:
    prefill_uj, decode_uj = chance.randrange(1000), -chance.randrange(1000)
    return Correction(
        uid=of.uid,
        request_id=of.request_id,
        corrected_us=of.finished_us + 1_000_000,
        prefill_uj=prefill_uj,
        decode_uj=decode_uj,
        dynamic_uj=None if chance.random() < 0.3 else chance.randrange(100),
        uncertainty_uj=None,
        first_token_us=None,
        shares=[GpuShare(gpu="GPU-a", prefill_uj=prefill_uj, decode_uj=decode_uj)],
    )


def random_book(chance: random.Random, number: int) -> BookEntry:
    return book(
        number * 7_001 % 500_000,
        gpu=chance.choice(["GPU-a", "host:x"]),
        measured_uj=chance.choice([None, 100, 101]),
        covered_us=chance.randrange(500_000),
    )


def assert_sums_are_those_of_the_rows(database: Database) -> None:
    reader = UsageReader(database.engine)
    buckets: tuple[Bucket | None, ...] = ("hour", "day", None)
    with database.engine.connect() as connection:
        for bucket in buckets:
            for groups in GROUPS:
                anew = from_requests(connection, *ALWAYS, bucket, groups)
                assert reader.usage(*ALWAYS, bucket, groups) == anew
        for width_us in (HOUR_US, DAY_US):
            kept = connection.execute(select(BookSum.__table__).where(BookSum.width_us == width_us))
            found = {(row.bucket_us, row.gpu): tuple(row)[3:] for row in kept}
            assert found == book_sums(connection.execute(select(StoredBook.__table__)).all(), width_us)


def book_sums(rows: Sequence[Any], width_us: int) -> dict[tuple[int, str], tuple[int, ...]]:
    groups: dict[tuple[int, str], list[Any]] = {}
    for row in rows:
        groups.setdefault((row.t0_us // width_us * width_us, row.gpu), []).append(row)
    return {
        place: (
            min(row.t0_us for row in group),
            max(row.t1_us for row in group),
            sum(row.t1_us - row.t0_us for row in group),
            sum(row.covered_us for row in group),
            sum(row.measured_uj or 0 for row in group),
            sum(row.measured_uj is not None for row in group),
            sum(row.requests_uj for row in group),
            sum(row.idle_uj for row in group),
            sum(row.unobserved_uj for row in group),
            sum(row.unmeasured_uj for row in group),
            len(group),
            sum((row.measured_uj or 0) != 100 for row in group),
        )
        for place, group in groups.items()
    }


@pytest.mark.parametrize("seed", range(4))
def test_sums_are_those_of_the_rows_however_these_came(
    seed: int, make_writer: Callable[..., StoreWriter], database: Database
) -> None:
    chance = random.Random(seed)
    records = [random_record(chance, number) for number in range(150)]
    books = [random_book(chance, number) for number in range(150)]
    corrections = [random_correction(chance, of) for of in chance.sample(records, 40)]
    outputs: list[Output] = [*records, *books]
    chance.shuffle(outputs)
    for part in (outputs[:120], outputs[60:], corrections[:25], [*outputs[100:200], *corrections[20:]]):
        writer = make_writer()
        writer.put(part, segment=1)
        assert writer.close(SOON_S)
        assert_sums_are_those_of_the_rows(database)
    (row,) = UsageReader(database.engine).usage(*ALWAYS)
    assert row.usage.requests == 150


def test_figures_are_summed_by_group_and_bucket(writer: StoreWriter, database: Database) -> None:
    writer.put([record(1), record(2, tenant=None, prompt_tokens=None), record(3_700), correction(1)], 0)
    assert writer.flush(SOON_S)
    reader = UsageReader(database.engine)
    acme, nobody = group_of(reader, "acme"), group_of(reader, None)
    assert (acme.requests, acme.prompt_tokens, acme.completion_tokens) == (2, 22, 40)
    assert acme.energy_uj == 2 * 9_000_001 + 1_500_000
    assert (nobody.requests, nobody.prompt_tokens, nobody.with_prompt) == (1, None, 0)
    assert nobody.cached_tokens is None
    hours = reader.usage(T0_US, T0_US + 2 * HOUR_US, "hour")
    assert [row.usage.requests for row in hours] == [2, 1]
    assert [row.bucket_us for row in hours] == [(T0_US + n) // HOUR_US * HOUR_US for n in (0, HOUR_US)]
    minutes = reader.usage(T0_US, T0_US + 60_000_000, "minute")
    assert sum(row.usage.requests for row in minutes) == 2


def group_of(reader: UsageReader, tenant: str | None) -> Any:
    rows = reader.usage(*ALWAYS, group_by=["tenant"])
    (found,) = [row.usage for row in rows if row.group == {"tenant": tenant}]
    return found


def test_filters_take_any_of_the_values_and_none_for_unknown(writer: StoreWriter, database: Database) -> None:
    records = [record(n, tenant=tenant) for n, tenant in enumerate(["a", "b", None, "c"])]
    writer.put(records, 0)
    assert writer.flush(SOON_S)
    reader = UsageReader(database.engine)

    def counted(**filters: list[str | None]) -> int:
        rows = reader.usage(*ALWAYS, filters=filters)  # type: ignore[arg-type]
        return sum(row.usage.requests for row in rows)

    assert [counted(tenant=["a", "b"]), counted(tenant=["a", None]), counted(tenant=["x"])] == [2, 2, 0]
    assert counted(tenant=["a", "b"], model=["llama"]) == 2
    assert counted(tenant=[]) == 0


def test_a_window_without_requests_has_no_rows(database: Database) -> None:
    reader = UsageReader(database.engine)
    assert reader.usage(0, DAY_US) == []
    assert reader.usage(0, DAY_US, "day", ["model"]) == []


def test_days_and_hours_together_make_up_any_window_of_hours(writer: StoreWriter, database: Database) -> None:
    records = [record(n, finished_us=DAY0_US + n * HOUR_US) for n in range(80)]
    writer.put(records, 0)
    assert writer.flush(SOON_S)
    reader = UsageReader(database.engine)
    for first, last in ((0, 80), (3, 7), (3, 30), (3, 60), (24, 48), (20, 48), (24, 49)):
        (row,) = reader.usage(DAY0_US + first * HOUR_US, DAY0_US + last * HOUR_US)
        assert row == UsageRow(None, {}, row.usage)
        assert row.usage.requests == last - first


def test_more_rows_than_fit_in_memory_are_refused(
    writer: StoreWriter, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("accounting.store.rollups.MAX_USAGE_ROWS", 3)
    writer.put([record(n, model=f"m{n}") for n in range(4)], 0)
    assert writer.flush(SOON_S)
    reader = UsageReader(database.engine)
    with pytest.raises(TooManyRows):
        reader.usage(*ALWAYS, group_by=["model"])
    assert len(reader.usage(*ALWAYS, group_by=["model"], filters={"model": ["m1", "m2", "m3"]})) == 3


def test_a_sum_holds_what_thousands_of_the_largest_requests_add_up_to(
    writer: StoreWriter, database: Database
) -> None:
    large = 10**15  # uJ: a kilowatt for eleven days
    shares = [GpuShare(gpu="GPU-a", prefill_uj=0, decode_uj=large)]
    of = msgspec.structs.replace(record(0), energy_uj=large, prefill_uj=0, decode_uj=large, shares=shares)
    writer.put([msgspec.structs.replace(of, uid=f"{n}") for n in range(3_000)], 0)
    assert writer.flush(SOON_S)
    (row,) = UsageReader(database.engine).usage(*ALWAYS)
    assert row.usage.energy_uj == 3_000 * large
    with database.engine.connect() as connection:
        assert len(connection.execute(select(UsageSum.__table__)).all()) == 2
