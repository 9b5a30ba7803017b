"""The REST surface for energy: what each request cost, and the books of each GPU.

    GET /v1/energy/requests/{id}   one request, by uid or request id
    GET /v1/energy/requests        pages of requests, newest first
    GET /v1/energy/books           per GPU and host: measured = requests + idle + unobserved + unmeasured

The figures come from `app.state.energy`, any `EnergyData`, the factor on them from `app.state.pue`. What
is answered is in `proxy/energy_views.py`.
"""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Protocol, cast

from fastapi import APIRouter, Depends, Query, Request

from accounting.events import Status
from accounting.records import RequestRecord
from accounting.store.engine import CannotAnswer, StoreError
from accounting.store.queries import Books, Cursor, Page, RequestFilter
from proxy.access.surface import may_see
from proxy.energy_views import BooksList, RequestList, RequestView, books_view, record_view
from proxy.errors import ApiError, BadRequest, NotFound
from proxy.known_parameters import only_known
from proxy.openapi import errors_of

LATEST_S = 253_402_300_800.0
"""Start of the year 10000 in unix seconds: no time can be later, and microseconds stay far below 64 bits."""


class EnergyData(Protocol):
    """Where the figures come from. Called in a worker thread; may raise StoreError (answered with 503)."""

    def request(self, request_id: str) -> RequestRecord | None: ...

    def requests(self, wanted: RequestFilter, limit: int, after: Cursor | None) -> Page: ...

    def books(
        self, t0_us: int | None, t1_us: int | None, gpu: str | None, bucket_us: int | None
    ) -> Books: ...


class StoreUnavailable(ApiError):
    status = 503
    default_code = "store_unavailable"


# What is asked. A cursor is opaque to clients: the place of the last request of a page.


def encode_cursor(cursor: Cursor) -> str:
    return base64.urlsafe_b64encode(f"{cursor.finished_us}:{cursor.uid}".encode()).decode().rstrip("=")


def decode_cursor(text: str) -> Cursor:
    """Raises BadRequest for anything that `encode_cursor` did not make."""
    try:
        place = base64.b64decode(
            text.encode() + b"=" * (-len(text) % 4), altchars=b"-_", validate=True
        ).decode()
        finished, uid = place.split(":", 1)
        cursor = Cursor(int(finished), uid)
    except (binascii.Error, ValueError):
        cursor = None
    if cursor is None or encode_cursor(cursor) != text or not 0 <= cursor.finished_us < 2**63:
        raise BadRequest("after: not a cursor; pass next_page of the page before", param="after")
    return cursor


UnixTime = Annotated[float | None, Query(ge=0, le=LATEST_S, allow_inf_nan=False)]

router = APIRouter(prefix="/v1/energy", tags=["energy"], dependencies=[Depends(only_known)])


def _energy(request: Request) -> EnergyData:
    return cast(EnergyData, request.app.state.energy)


def _pue(request: Request) -> float | None:
    return cast(float | None, request.app.state.pue)


def window(start_time: float | None, end_time: float | None) -> tuple[int | None, int | None]:
    """[start, end) in microseconds. A float holds unix seconds to better than a microsecond until 2100."""
    if start_time is not None and end_time is not None and end_time <= start_time:
        raise BadRequest("end_time: has to be later than start_time", param="end_time")
    t0_us, t1_us = (None if t is None else round(t * 1e6) for t in (start_time, end_time))
    return t0_us, t1_us


@router.get("/requests/{id:path}", response_model=RequestView, responses=errors_of(NotFound))
def read_request(request: Request, id: str) -> dict[str, object]:
    """What one request cost. `id` is joulegate's id or the request's x-request-id (then: the newest)."""
    try:
        record = _energy(request).request(id)
    except StoreError as error:
        raise StoreUnavailable(str(error)) from error
    if record is None or not may_see(request.scope.get("state", {}), record):
        raise NotFound(f"no request has the id {id!r}", param="id")
    return record_view(record, _pue(request))


@router.get("/requests", response_model=RequestList)
def list_requests(
    request: Request,
    tenant: str | None = None,
    model: str | None = None,
    backend: str | None = None,
    status: Status | None = None,
    route: str | None = None,
    project: str | None = None,
    user_id: str | None = None,
    api_key: Annotated[str | None, Query(description="id of a virtual key")] = None,
    start_time: UnixTime = None,
    end_time: UnixTime = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    after: Annotated[str | None, Query(description="next_page of the page before")] = None,
) -> dict[str, object]:
    """Requests that finished in [start_time, end_time) (unix seconds), newest first."""
    t0_us, t1_us = window(start_time, end_time)
    wanted = RequestFilter(
        tenant=tenant,
        model=model,
        backend=backend,
        status=status,
        route=route,
        project=project,
        user_id=user_id,
        api_key=api_key,
        finished_from_us=t0_us,
        finished_before_us=t1_us,
    )
    cursor = None if after is None else decode_cursor(after)
    try:
        page = _energy(request).requests(wanted, limit, cursor)
    except StoreError as error:
        raise StoreUnavailable(str(error)) from error
    return {
        "object": "list",
        "data": [record_view(record, _pue(request)) for record in page.records],
        "has_more": page.next is not None,
        "next_page": None if page.next is None else encode_cursor(page.next),
    }


@router.get("/books", response_model=BooksList)
def read_books(
    request: Request,
    start_time: UnixTime = None,
    end_time: UnixTime = None,
    gpu: Annotated[str | None, Query(description="UUID of one GPU, or host:NAME")] = None,
    bucket_width_s: Annotated[
        int | None, Query(ge=1, le=366 * 86_400, description="sum in buckets of this many seconds")
    ] = None,
) -> dict[str, object]:
    """The books of the intervals that start in [start_time, end_time) (unix seconds), by device, and sums."""
    t0_us, t1_us = window(start_time, end_time)
    bucket_us = None if bucket_width_s is None else bucket_width_s * 1_000_000
    try:
        books = _energy(request).books(t0_us, t1_us, gpu, bucket_us)
    except CannotAnswer as error:
        raise BadRequest(str(error), param="bucket_width_s") from error
    except StoreError as error:
        raise StoreUnavailable(str(error)) from error
    return {
        "object": "list",
        "data": [books_view(row) for row in books.rows],
        "total": None if books.total is None else books_view(books.total),
        "host_total": None if books.host_total is None else books_view(books.host_total),
    }
