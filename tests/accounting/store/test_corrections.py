"""A correction is stored once, and with it the request and its shares get the corrected figures."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sqlalchemy import func, select

from accounting.records import Correction, GpuShare, Output, RequestRecord, corrected
from accounting.store.queries import RequestFilter, StoreReader
from accounting.store.schema import StoredCorrection, StoredCorrectionShare
from accounting.store.writer import StoreWriter
from tests.accounting.store.databases import Database
from tests.accounting.store.examples import book, correction, record

SOON_S = 20.0


def put(writer: StoreWriter, *outputs: Output) -> None:
    writer.put(outputs, segment=1)
    assert writer.flush(SOON_S)


def counted(database: Database) -> tuple[int, int]:
    """Corrections, and their shares."""
    with database.engine.connect() as connection:
        tables = (StoredCorrection, StoredCorrectionShare)
        one, other = (
            connection.execute(select(func.count()).select_from(table)).scalar_one() for table in tables
        )
        return one, other


def test_a_correction_in_a_later_batch_changes_the_request(writer: StoreWriter, reader: StoreReader) -> None:
    put(writer, record(1), record(2))
    put(writer, correction(1))
    found = reader.request("uid-000001")
    assert found == corrected(record(1), correction(1))
    assert found.energy_uj == 9_000_001 + 1_500_000 == found.correction_uj + record(1).energy_uj  # type: ignore[operator]
    assert found.corrected_us == correction(1).corrected_us
    assert reader.request("uid-000002") == record(2)
    assert reader.requests(RequestFilter(), 10).records == [record(2), found]


def test_a_correction_in_the_batch_of_its_record_does_too(writer: StoreWriter, reader: StoreReader) -> None:
    put(writer, book(1), record(1), record(2), correction(2), correction(1), book(2))
    for number in (1, 2):
        assert reader.request(f"uid-{number:06}") == corrected(record(number), correction(number))


@pytest.mark.parametrize("dynamic", [(7_000_000, -40), (None, 5), (5, None)])
def test_dynamic_energy_is_known_where_both_say_it(
    writer: StoreWriter, reader: StoreReader, dynamic: tuple[int | None, int | None]
) -> None:
    of, late = record(1, dynamic_uj=dynamic[0]), correction(1, dynamic_uj=dynamic[1])
    put(writer, of, late)
    assert reader.request(of.uid) == corrected(of, late)


def test_what_became_unknown_is_null(writer: StoreWriter, reader: StoreReader) -> None:
    late = correction(1, uncertainty_uj=None, first_token_us=None)
    put(writer, record(1), late)
    found = reader.request("uid-000001")
    assert found == corrected(record(1), late)
    assert (found.uncertainty_uj, found.first_token_us) == (None, None)


def test_put_again_in_any_mixture_it_counts_once(
    make_writer: Callable[..., StoreWriter], reader: StoreReader, database: Database
) -> None:
    outputs: list[Output] = [record(1), book(1), correction(1), record(2), correction(2)]
    expected = [corrected(record(n), correction(n)) for n in (2, 1)]
    first = make_writer()
    put(first, *outputs, *outputs)
    assert reader.requests(RequestFilter(), 10).records == expected
    put(first, correction(1), correction(1))
    assert first.close(SOON_S)
    put(make_writer(), *outputs)
    assert reader.requests(RequestFilter(), 10).records == expected
    assert counted(database) == (2, 4)


def test_the_first_version_of_a_correction_stands(writer: StoreWriter, reader: StoreReader) -> None:
    put(writer, record(1), correction(1), correction(1, prefill_uj=9, shares=[]))
    assert reader.request("uid-000001") == corrected(record(1), correction(1))


def test_a_correction_of_a_request_that_is_gone_holds_nothing_up(
    writer: StoreWriter, reader: StoreReader, database: Database
) -> None:
    put(writer, correction(7), record(1), correction(1))
    assert counted(database) == (1, 2)
    assert reader.request("uid-000007") is None
    assert reader.request("uid-000001") == corrected(record(1), correction(1))
    assert (writer.pending, writer.last_error) == (0, None)


def test_one_that_no_database_can_take_leaves_the_others_and_its_request_alone(
    writer: StoreWriter, reader: StoreReader, database: Database
) -> None:
    too_large = correction(2, prefill_uj=10**20)
    put(writer, *(record(n) for n in range(4)), correction(1), too_large, correction(3))
    assert reader.request("uid-000002") == record(2)
    for number in (1, 3):
        assert reader.request(f"uid-{number:06}") == corrected(record(number), correction(number))
    assert counted(database) == (2, 4)


def test_hundreds_in_a_batch_are_stored_whole(writer: StoreWriter, reader: StoreReader) -> None:
    records: list[RequestRecord] = [record(n) for n in range(700)]
    late: list[Correction] = [correction(n, prefill_uj=n) for n in range(700)]
    put(writer, *records, *late)
    page = reader.requests(RequestFilter(), 1000).records
    assert [r.correction_uj for r in reversed(page)] == [n - 500_000 for n in range(700)]


def test_any_name_a_gpu_or_request_has_is_found_again(writer: StoreWriter, reader: StoreReader) -> None:
    gpu = "half \ud83d" + "long " * 200
    shares = [GpuShare(gpu=gpu, prefill_uj=1, decode_uj=2)]
    put(writer, record(1, uid=gpu, shares=shares), correction(1, uid=gpu, shares=shares))
    found = reader.request(gpu)
    assert found is not None
    assert [(share.prefill_uj, share.decode_uj) for share in found.shares] == [(2, 4)]
