"""Jobs that go on at a backend: videos, and images that a server keeps.

    GET    /v1/videos                  jobs, newest first
    GET    /v1/videos/{id}             how a job stands; with `energy` once it is over
    GET    /v1/videos/{id}/content     the video
    DELETE /v1/videos/{id}             take it back
    GET    /v1/images/{id}/content     an image by the URL in an answer (SGLang)

The server's own answer is given, from the backend that has the job. To begin one is the relay's work.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from typing import Annotated, Any, cast
from urllib.parse import quote

import httpx
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse

from accounting.records import RequestRecord
from proxy.backends import Backend, Backends
from proxy.energy import energy_object
from proxy.errors import BackendFailed, BackendUnavailable, NotFound
from proxy.media import video
from proxy.media.jobs import Job, Jobs, newest_first
from proxy.openapi import errors_of
from proxy.state import State

ITS_OWN: dict[int | str, dict[str, Any]] = {"default": {"description": "The server's own answer"}}
ERRORS = errors_of(NotFound, BackendFailed, BackendUnavailable)

router = APIRouter(tags=["videos"])

TIMEOUT = httpx.Timeout(30.0, read=600.0)
OF_THE_HOP = frozenset(
    ("connection", "keep-alive", "transfer-encoding", "date", "server", "x-request-id", "content-encoding")
)
ASKED = ("range", "if-range", "if-none-match", "if-modified-since", "accept")
"""Headers of a client that matter for a download."""

PER_BACKEND = 100


def _jobs(request: Request) -> Jobs:
    return cast(Jobs, request.app.state.jobs)


def _backends(request: Request) -> Backends:
    return cast(State, request.app.state.joulegate).backends


def _client(request: Request) -> httpx.AsyncClient:
    return cast(httpx.AsyncClient, request.app.state.media_client)


async def _ask(
    request: Request, backend: Backend, path: str, method: str = "GET", query: str = ""
) -> httpx.Response:
    """The backend's answer, its body still to be read. Raises BackendUnavailable, BackendFailed."""
    headers = {name: request.headers[name] for name in ASKED if name in request.headers}
    client = _client(request)
    ask = client.build_request(
        method,
        str(backend.target(path, query.encode())),
        headers={**headers, "accept-encoding": "identity", **backend.credentials()},
    )
    try:
        return await client.send(ask, stream=True)
    except httpx.ConnectError as error:
        raise BackendUnavailable(
            f"backend {backend.id} cannot be reached: {error}", retry_after_s=1
        ) from error
    except httpx.HTTPError as error:
        raise BackendFailed(f"backend {backend.id} gave no answer: {type(error).__name__}") from error


async def _read(backend: Backend, answer: httpx.Response) -> bytes:
    try:
        return await answer.aread()
    except httpx.HTTPError as error:
        raise BackendFailed(f"backend {backend.id} broke off in the middle of its answer") from error
    finally:
        await answer.aclose()


def _headers(answer: httpx.Response, *, whole: bool) -> dict[str, str]:
    drop = OF_THE_HOP if not whole else OF_THE_HOP | {"content-length"}
    return {name: value for name, value in answer.headers.items() if name not in drop}


async def _find(request: Request, job_id: str, path: str) -> tuple[Backend, Job | None, httpx.Response]:
    """Who has it, and its answer to GET `path`. A job that nobody here began is asked for everywhere."""
    jobs, everywhere = _jobs(request), list(_backends(request).all)
    job = await jobs.find(job_id)
    record = None if job is None else jobs.record(job)
    if record is not None and not _may_see(request, record):
        raise NotFound(f"there is no {job_id} here")
    if job is not None:
        backend = jobs.backend(job)
        if backend is None:
            raise NotFound(f"the backend of {job_id} is gone")
        return backend, job, await _ask(request, backend, path)
    if _project(request) is not None:
        raise NotFound(f"there is no {job_id} here")
    last: tuple[Backend, httpx.Response] | None = None
    fault: BackendUnavailable | BackendFailed | None = None
    for backend in everywhere:
        try:
            answer = await _ask(request, backend, path)
        except (BackendUnavailable, BackendFailed) as error:
            fault = error
            continue
        if answer.status_code < 400 or len(everywhere) == 1:
            return backend, None, answer
        await answer.aclose()
        last = backend, answer
    if last is None and fault is not None:
        raise fault
    raise NotFound(f"there is no {job_id} here")


def _project(request: Request) -> str | None:
    """The project of the key that was shown; None: whoever asks is kept to none."""
    key = getattr(request.scope.get("state", {}).get("holder"), "key", None)
    return None if key is None else str(key.project)


def _may_see(request: Request, record: RequestRecord | None) -> bool:
    project = _project(request)
    return project is None or (record is not None and record.project == project)


def _with_energy(request: Request, job: Job | None, described: dict[str, Any]) -> dict[str, Any]:
    """The description, with the energy once the job is over."""
    if job is None or described.get("status") not in video.OVER:
        return described
    record = _jobs(request).record(job)
    if record is None:
        return described
    return {**described, "energy": energy_object(record, cast(float | None, request.app.state.pue))}


@router.get("/v1/videos", summary="Videos, newest first")
async def list_videos(
    request: Request,
    limit: Annotated[int, Query(ge=1, le=PER_BACKEND, description="how many at most")] = 20,
    after: Annotated[str | None, Query(description="the last id of the page before")] = None,
    order: Annotated[str, Query(pattern="^(asc|desc)$", description="by creation: asc or desc")] = "desc",
) -> Response:
    """Of each backend the newest 100; those that cannot be asked are left out."""
    backends = _backends(request).all
    lists = await asyncio.gather(*(_list(request, backend) for backend in backends))
    found = newest_first([described for some in lists for described in some])
    if order == "asc":
        found.reverse()
    ids = [described.get("id") for described in found]
    if after is not None and after in ids:
        found = found[ids.index(after) + 1 :]
    page: list[dict[str, object]] = []
    for described in found:
        job_id = described.get("id")
        job = await _jobs(request).find(job_id) if isinstance(job_id, str) else None
        record = None if job is None else _jobs(request).record(job)
        if _may_see(request, record):
            page.append(_with_energy(request, job, described))
        if len(page) > limit:
            break
    data = page[:limit]
    return _json(
        {
            "object": "list",
            "data": data,
            "first_id": data[0]["id"] if data else None,
            "last_id": data[-1]["id"] if data else None,
            "has_more": len(page) > limit,
        }
    )


async def _list(request: Request, backend: Backend) -> list[dict[str, object]]:
    try:
        answer = await _ask(request, backend, "/v1/videos", query=f"limit={PER_BACKEND}")
        body = await _read(backend, answer)
    except (BackendUnavailable, BackendFailed):
        return []
    parsed = _object(body) if answer.status_code == 200 else None
    data = parsed.get("data") if parsed is not None else None
    return [d for d in data if isinstance(d, dict) and "id" in d] if isinstance(data, list) else []


@router.get("/v1/videos/{video_id}", summary="How a video stands", responses=ERRORS | ITS_OWN)
async def retrieve(request: Request, video_id: str) -> Response:
    backend, job, answer = await _find(request, video_id, f"/v1/videos/{quote(video_id)}")
    body = await _read(backend, answer)
    described = video.parse(body) if answer.status_code < 300 else None
    if job is not None and described is not None:
        _jobs(request).seen(job, described)
    parsed = _object(body) if described is not None else None
    if parsed is None:
        return Response(body, answer.status_code, _headers(answer, whole=True))
    return _json(_with_energy(request, job, parsed), answer.status_code)


@router.delete("/v1/videos/{video_id}", summary="Delete a video", responses=ERRORS | ITS_OWN)
async def delete(request: Request, video_id: str) -> Response:
    path = f"/v1/videos/{quote(video_id)}"
    backend, job, standing = await _find(request, video_id, path)
    await standing.aclose()
    answer = await _ask(request, backend, path, "DELETE")
    body = await _read(backend, answer)
    if job is not None and answer.status_code < 300:
        _jobs(request).deleted(job)
    return Response(body, answer.status_code, _headers(answer, whole=True))


@router.get(
    "/v1/videos/{video_id}/content",
    summary="The video itself",
    response_class=Response,
    responses=ERRORS | ITS_OWN,
)
async def content(request: Request, video_id: str) -> Response:
    query = f"?{request.url.query}" if request.url.query else ""
    return await _pass(request, video_id, f"/v1/videos/{quote(video_id)}/content{query}")


@router.get(
    "/v1/images/{image_id}/content",
    summary="An image that its server keeps",
    response_class=Response,
    responses=ERRORS | ITS_OWN,
)
async def image(request: Request, image_id: str) -> Response:
    return await _pass(request, image_id, f"/v1/images/{quote(image_id)}/content")


async def _pass(request: Request, job_id: str, path: str) -> Response:
    _, _, answer = await _find(request, job_id, path)
    return StreamingResponse(_pieces(answer), answer.status_code, _headers(answer, whole=False))


async def _pieces(answer: httpx.Response) -> AsyncIterator[bytes]:
    try:
        async for piece in answer.aiter_raw():
            yield piece
    finally:
        await answer.aclose()


def _object(body: bytes) -> dict[str, Any] | None:
    try:
        parsed = json.loads(body)
    except ValueError:
        return None
    return parsed if isinstance(parsed, dict) else None


def _json(document: Mapping[str, Any], status: int = 200) -> Response:
    return Response(json.dumps(document), status, media_type="application/json")
