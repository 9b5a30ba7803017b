"""Finding requests, paging through them, and summing the books."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from accounting.events import Media
from accounting.records import BookEntry, RequestRecord
from accounting.store import queries
from accounting.store.engine import StoreError
from accounting.store.queries import BooksRow, Cursor, RequestFilter, StoreReader, TooManyRows
from accounting.store.writer import StoreWriter
from tests.accounting.store.databases import Database
from tests.accounting.store.examples import T0_US, book, record

Store = Callable[..., None]


@pytest.fixture
def store(writer: StoreWriter) -> Store:
    def put(*outputs: RequestRecord | BookEntry) -> None:
        writer.put(outputs, segment=0)
        assert writer.flush(timeout_s=20)

    return put


def uids(records: list[RequestRecord]) -> list[str]:
    return [r.uid for r in records]


def test_a_request_is_found_by_uid_before_request_id(store: Store, reader: StoreReader) -> None:
    store(
        record(1, uid="a", request_id="x"),
        record(2, uid="x", request_id="b"),
        record(3, uid="c", request_id="x"),
    )
    found = reader.request("x")
    assert found is not None
    assert found.uid == "x"


def test_media_and_job_come_back_as_they_were_stored(store: Store, reader: StoreReader) -> None:
    video = Media(kind="video", count=1, width=832, height=480, steps=50, frames=81, fps=16.0)
    image = Media(kind="image", count=3)
    given = [record(1, media=video, job="video_1"), record(2, media=image), record(3)]
    store(*given)
    found = reader.requests(RequestFilter(), 10).records
    assert [(r.media, r.job) for r in found] == [(None, None), (image, None), (video, "video_1")]


def test_of_several_with_one_request_id_the_newest_is_found(store: Store, reader: StoreReader) -> None:
    store(*(record(n, request_id="same") for n in (1, 3, 2)))
    found = reader.request("same")
    assert found is not None
    assert found.uid == "uid-000003"


def test_a_request_that_is_not_there_is_none(reader: StoreReader) -> None:
    assert reader.request("nobody") is None


def test_pages_go_from_newest_to_oldest_and_end(store: Store, reader: StoreReader) -> None:
    store(*(record(n) for n in range(5)))
    first = reader.requests(RequestFilter(), 2)
    assert uids(first.records) == ["uid-000004", "uid-000003"]
    assert first.next == Cursor(record(3).finished_us, "uid-000003")
    second = reader.requests(RequestFilter(), 2, first.next)
    third = reader.requests(RequestFilter(), 2, second.next)
    assert uids(second.records + third.records) == ["uid-000002", "uid-000001", "uid-000000"]
    assert third.next is None


def test_a_page_that_is_exactly_full_is_the_last(store: Store, reader: StoreReader) -> None:
    store(record(1), record(2))
    assert reader.requests(RequestFilter(), 2).next is None


def test_requests_that_finish_at_the_same_time_are_each_listed_once(
    store: Store, reader: StoreReader
) -> None:
    store(*(record(n, finished_us=T0_US + n // 5) for n in range(20)))
    seen: list[str] = []
    after: Cursor | None = None
    while True:
        page = reader.requests(RequestFilter(), 3, after)
        seen += uids(page.records)
        if (after := page.next) is None:
            break
    assert seen == [f"uid-{n:06}" for n in reversed(range(20))]


def test_requests_that_finish_between_two_pages_shift_nothing(store: Store, reader: StoreReader) -> None:
    store(*(record(n) for n in range(4)))
    first = reader.requests(RequestFilter(), 2)
    store(record(10), record(11))
    assert uids(reader.requests(RequestFilter(), 2, first.next).records) == ["uid-000001", "uid-000000"]


def test_each_record_of_a_page_has_its_own_shares(store: Store, reader: StoreReader) -> None:
    given = [record(2), record(1, shares=[]), record(0, shares=record(0).shares[1:])]
    store(*given)
    assert reader.requests(RequestFilter(), 10).records == given


@pytest.mark.parametrize(
    ("wanted", "numbers"),
    [
        (RequestFilter(tenant="other"), [1]),
        (RequestFilter(model="qwen"), [2]),
        (RequestFilter(backend="second"), [3]),
        (RequestFilter(status="aborted"), [4]),
        (RequestFilter(route="/v1/completions"), [5]),
        (RequestFilter(tenant="other", model="qwen"), []),
        (RequestFilter(project="p"), [4, 3]),
        (RequestFilter(project="p", user_id="u"), [4]),
        (RequestFilter(api_key="key_1"), [5]),
        (RequestFilter(tenant="acme", finished_from_us=T0_US + 4_000_000), [5, 4]),
        (RequestFilter(finished_before_us=T0_US + 1_000_000), [0]),
        (RequestFilter(started_from_us=T0_US + 4_300_000), [5]),
        (RequestFilter(started_from_us=T0_US + 4_300_001), []),
        (RequestFilter(started_before_us=T0_US + 300_000), [0]),
        (RequestFilter(), [5, 4, 3, 2, 1, 0]),
    ],
)
def test_a_filter_lets_through_what_matches(
    wanted: RequestFilter, numbers: list[int], store: Store, reader: StoreReader
) -> None:
    store(
        record(0),
        record(1, tenant="other"),
        record(2, model="qwen"),
        record(3, backend="second", project="p"),
        record(4, status="aborted", project="p", user_id="u"),
        record(5, route="/v1/completions", api_key="key_1"),
    )
    assert uids(reader.requests(wanted, 100).records) == [f"uid-{n:06}" for n in numbers]


def test_without_books_there_are_no_rows_and_no_total(reader: StoreReader) -> None:
    books = reader.books()
    assert (books.rows, books.total) == ([], None)


def test_books_sum_each_gpu_and_all(store: Store, reader: StoreReader) -> None:
    store(
        book(0),
        book(1),
        book(2),
        book(0, "GPU-b", measured_uj=30, requests_uj=0, idle_uj=15),
        book(1, "GPU-b"),
    )
    books = reader.books()
    assert [row.gpu for row in books.rows] == ["GPU-a", "GPU-b"]
    assert books.rows[0] == BooksRow(
        gpu="GPU-a",
        boundary="gpu",
        bucket_us=None,
        t0_us=T0_US,
        t1_us=T0_US + 1_500_000,
        measured_uj=300,
        requests_uj=180,
        idle_uj=75,
        unobserved_uj=30,
        unmeasured_uj=15,
        covered_us=1_500_000,
        not_covered_us=0,
        intervals=3,
        balanced=True,
    )
    total = books.total
    assert total is not None
    assert (total.gpu, total.measured_uj, total.requests_uj, total.idle_uj) == (None, 430, 240, 115)
    assert (total.unobserved_uj, total.unmeasured_uj, total.intervals) == (50, 25, 5)
    assert (total.t0_us, total.t1_us, total.covered_us) == (T0_US, T0_US + 1_500_000, 2_500_000)
    assert total.balanced


NOTHING: dict[str, Any] = {
    "measured_uj": None,
    "requests_uj": 0,
    "idle_uj": 0,
    "unobserved_uj": 0,
    "unmeasured_uj": 0,
    "covered_us": 0,
}


def test_where_nothing_was_measured_the_sum_is_none_and_not_0(store: Store, reader: StoreReader) -> None:
    store(book(0, **NOTHING), book(1, **NOTHING))
    books = reader.books()
    assert books.total is not None
    assert books.rows[0].measured_uj is None
    assert books.total.measured_uj is None
    assert (books.total.covered_us, books.total.not_covered_us, books.total.balanced) == (0, 1_000_000, True)


def test_time_that_was_not_covered_is_counted(store: Store, reader: StoreReader) -> None:
    store(book(0), book(1, covered_us=200_000), book(2, **NOTHING))
    (row,) = reader.books().rows
    assert (row.measured_uj, row.covered_us, row.not_covered_us) == (200, 700_000, 800_000)


def test_faults_that_cancel_out_in_the_sum_are_still_out_of_balance(
    store: Store, reader: StoreReader
) -> None:
    store(book(0, measured_uj=101), book(1, measured_uj=99), book(0, "GPU-b"))
    books = reader.books()
    assert [row.balanced for row in books.rows] == [False, True]
    assert books.total is not None
    assert books.total.measured_uj == 300
    assert not books.total.balanced


def test_energy_booked_without_a_measurement_is_out_of_balance(store: Store, reader: StoreReader) -> None:
    store(book(0, measured_uj=None))
    assert not reader.books().rows[0].balanced


def test_a_window_takes_the_intervals_that_start_in_it(store: Store, reader: StoreReader) -> None:
    store(*(book(n) for n in range(6)))
    (row,) = reader.books(t0_us=T0_US + 500_000, t1_us=T0_US + 2_000_000).rows
    assert (row.intervals, row.t0_us, row.t1_us) == (3, T0_US + 500_000, T0_US + 2_000_000)
    assert reader.books(t0_us=T0_US + 3_000_000).rows == []


def test_books_of_one_gpu(store: Store, reader: StoreReader) -> None:
    store(book(0), book(0, "GPU-b"))
    assert [row.gpu for row in reader.books(gpu="GPU-b").rows] == ["GPU-b"]


def test_buckets_start_at_multiples_of_their_width_and_add_up(store: Store, reader: StoreReader) -> None:
    width_us = 60_000_000
    first = T0_US - 20_000_000
    assert first % width_us == 0
    # From 15 s to 120 s after T0_US: the first and the last bucket are cut.
    store(*(book(n, gpu) for n in range(30, 240) for gpu in ("GPU-a", "GPU-b")))
    books = reader.books(bucket_us=width_us)
    found = [(row.bucket_us, row.gpu, row.intervals) for row in books.rows]
    assert found == [
        (first, "GPU-a", 50),
        (first, "GPU-b", 50),
        (first + width_us, "GPU-a", 120),
        (first + width_us, "GPU-b", 120),
        (first + 2 * width_us, "GPU-a", 40),
        (first + 2 * width_us, "GPU-b", 40),
    ]
    assert books.total is not None
    whole = reader.books().total
    assert books.total == whole


def test_more_rows_than_allowed_are_refused(
    store: Store, reader: StoreReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queries, "MAX_BOOK_ROWS", 3)
    store(*(book(n) for n in range(4)))
    assert len(reader.books(t1_us=T0_US + 1_500_000, bucket_us=500_000).rows) == 3
    with pytest.raises(TooManyRows, match="wider buckets"):
        reader.books(bucket_us=500_000)


def test_questions_to_a_database_that_is_away_raise_a_store_error(
    reader: StoreReader, database: Database
) -> None:
    with database.away():
        with pytest.raises(StoreError, match="cannot read the request"):
            reader.request("x")
        with pytest.raises(StoreError, match="cannot list the requests"):
            reader.requests(RequestFilter(), 10)
        with pytest.raises(StoreError, match="cannot read the books"):
            reader.books()
