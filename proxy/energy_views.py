"""What the REST surface answers for energy. The descriptions are the documentation that /docs shows.

Times are unix seconds with microseconds behind the point. Energies come twice: exact in integer microjoules
(`_uj`) and handy in joules. null means "not known".
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from accounting.events import Media, MediaKind, MeterMethod, Status
from accounting.records import Boundary, GpuShare, HostMethod, RequestRecord, TokensFrom
from accounting.store.queries import BooksRow
from proxy.energy import facility_joules


class ShareView(BaseModel):
    gpu: str = Field(description="UUID of the GPU")
    energy_uj: int = Field(description="this GPU's part of the request's energy, microjoules")
    prefill_uj: int = Field(description="of it for prefill, microjoules")
    decode_uj: int = Field(description="of it for decode, microjoules")
    energy_joules: float = Field(description="this GPU's part of the request's energy, joules")


class MediaView(BaseModel):
    kind: MediaKind = Field(description="image or video")
    count: int = Field(description="how many were asked for")
    size: str | None = Field(description="WxH in pixels; null: neither client nor server said it, as below")
    steps: int | None = Field(description="denoising steps")
    frames: int | None = Field(description="frames of a video")
    fps: float | None = Field(description="frames per second, as the video is played")
    seconds: float | None = Field(description="length of a video, seconds")
    joules_per_image: float | None = Field(description="energy_joules / count of images")
    joules_per_video_second: float | None = Field(description="energy_joules / (count x seconds) of videos")
    joules_per_step: float | None = Field(description="energy_joules / (count x steps)")


class RequestView(BaseModel):
    object: Literal["energy.request"]
    id: str = Field(description="unique id given by joulegate")
    request_id: str = Field(description="the x-request-id of the request; a client may use one twice")
    tenant: str | None = Field(description="who is charged")
    project: str | None = Field(description="project of the virtual key it came with")
    user_id: str | None = Field(description="user of that key, or the one that the body named")
    api_key: str | None = Field(description="id of that key, never the key itself")
    model: str | None = Field(description="model as asked for")
    backend: str | None = Field(description="name of the backend that served it")
    route: str = Field(description="path of the API, such as /v1/chat/completions")
    streamed: bool = Field(description="whether the answer was streamed")
    status: Status = Field(description="how the request ended")
    http_status: int | None = Field(description="HTTP status that the client got")
    error: str | None = Field(description="what went wrong, in words")
    started_at: float = Field(description="dispatched to the backend, unix seconds")
    scheduled_at: float | None = Field(
        description="the engine began with the prompt, unix seconds: before that it queued; often an estimate"
    )
    first_token_at: float | None = Field(description="first token arrived, unix seconds")
    finished_at: float = Field(description="ended, unix seconds")
    prompt_tokens: int | None = Field(description="tokens of the prompt, as the engine counted")
    cached_tokens: int | None = Field(description="of them found in the prefix cache")
    completion_tokens: int | None = Field(description="tokens generated")
    tokens_from: TokensFrom | None = Field(
        description="who counted completion_tokens: the engine, or joulegate in a stream that broke off"
    )
    energy_joules: float | None = Field(description="GPU energy of the request, joules")
    prefill_joules: float | None = Field(description="of it for prefill, joules")
    decode_joules: float | None = Field(description="of it for decode, joules")
    joules_per_output_token: float | None = Field(description="energy_joules / completion_tokens")
    dynamic_joules: float | None = Field(
        description="of it what would not have been drawn without requests; null: idle power not known yet"
    )
    static_joules: float | None = Field(description="of it the share of idle power; null: not known yet")
    quality: float | None = Field(
        description="relative error of the work model of late, over one second; null before it has learnt"
    )
    uncertainty_joules: float | None = Field(description="one standard deviation of energy_joules, estimated")
    energy_uj: int | None = Field(description="GPU energy of the request, exact, microjoules")
    prefill_uj: int | None = Field(description="of it for prefill, microjoules")
    decode_uj: int | None = Field(description="of it for decode, microjoules")
    dynamic_uj: int | None = Field(
        description="energy_uj without the GPU's idle power over its time, microjoules; null: not known"
    )
    uncertainty_uj: int | None = Field(description="one standard deviation of energy_uj, microjoules")
    unmeasured_seconds: float = Field(
        description="time in flight that was not measured, seconds; above 0 makes the energy a lower bound,"
        " and null where it is all of the time"
    )
    attribution_method: str = Field(description="how the energy was split over the requests of a batch")
    meter: MeterMethod = Field(description="how the GPUs' energy was read")
    simulated: bool = Field(description="true where the GPUs are simulated")
    state: Literal["provisional", "final"] = Field(
        description="a provisional figure can still change; a final one by one correction"
    )
    corrected_at: float | None = Field(
        description="when a correction was added to the figures, unix seconds; null: none"
    )
    correction_joules: float | None = Field(
        description="what it added to energy_joules; below 0: it took some away; null: none"
    )
    gpus: list[ShareView] = Field(description="the energy by GPU; adds up to energy_uj exactly")
    host_joules: float | None = Field(
        description="its part of the host's energy, joules; not in energy_joules; null: not known"
    )
    host_uj: int | None = Field(description="the same, exact, microjoules")
    host_method: HostMethod | None = Field(description="how the host's energy was found; estimate: by watts")
    media: MediaView | None = Field(description="images or videos it asked for; null: it was for tokens")
    job: str | None = Field(description="id of the job that it began, such as a video's; null: none")
    host_unmeasured_seconds: float | None = Field(
        description="time in flight without host energy, seconds; above 0 makes it a lower bound; null: no"
        " host is measured"
    )
    pue: float | None = Field(description="power usage effectiveness of the building, as configured")
    facility_joules: float | None = Field(
        description="(GPUs + host) x pue, joules; null: one of them is not, or not wholly, known"
    )


class RequestList(BaseModel):
    object: Literal["list"]
    data: list[RequestView] = Field(description="requests, newest first")
    has_more: bool = Field(description="whether older requests match")
    next_page: str | None = Field(description="pass it as `after` to get the next page")


class BooksView(BaseModel):
    gpu: str | None = Field(description="UUID of the GPU, or host:NAME; null in a total")
    boundary: Boundary = Field(description="what it is the energy of: gpu or host")
    bucket_start_time: float | None = Field(description="start of the bucket, unix seconds; null without")
    start_time: float = Field(description="start of the first interval summed here, unix seconds")
    end_time: float = Field(description="end of the last interval summed here, unix seconds")
    measured_uj: int | None = Field(description="what the counter says, microjoules; null: nothing measured")
    requests_uj: int = Field(description="charged to requests, microjoules")
    idle_uj: int = Field(description="nothing in flight, microjoules")
    unobserved_uj: int = Field(description="work that did not pass the proxy, microjoules")
    unmeasured_uj: int = Field(description="counted, but its course was not seen, microjoules")
    measured_joules: float | None = Field(description="measured_uj in joules")
    requests_joules: float = Field(description="requests_uj in joules")
    idle_joules: float = Field(description="idle_uj in joules")
    unobserved_joules: float = Field(description="unobserved_uj in joules")
    unmeasured_joules: float = Field(description="unmeasured_uj in joules")
    covered_seconds: float = Field(description="device time that the measurement covers, seconds")
    not_covered_seconds: float = Field(description="device time in the books that it does not cover, seconds")
    intervals: int = Field(description="intervals summed")
    balanced: bool = Field(
        description="measured_uj = requests_uj + idle_uj + unobserved_uj + unmeasured_uj in every interval"
    )


class BooksList(BaseModel):
    object: Literal["list"]
    data: list[BooksView] = Field(description="by bucket, then device")
    total: BooksView | None = Field(description="the sum over GPUs; null where there are none")
    host_total: BooksView | None = Field(description="the sum over hosts; null where there are none")


def _seconds(t_us: int) -> float:
    return t_us / 1e6


def _joules(energy_uj: int | None) -> float | None:
    return None if energy_uj is None else energy_uj / 1e6


def record_view(record: RequestRecord, pue: float | None = None) -> dict[str, object]:
    """A record as the REST surface shows it: the fields of `RequestView`, ready for JSON."""
    tokens = record.completion_tokens
    energy_j = _joules(record.energy_uj)
    known = record.dynamic_uj is not None and record.energy_uj is not None
    static_uj = (record.energy_uj or 0) - (record.dynamic_uj or 0) if known else None
    whole_us = record.finished_us - record.started_us
    unmeasured_us = whole_us if record.energy_uj is None else record.unmeasured_us
    return {
        "object": "energy.request",
        "id": record.uid,
        "request_id": record.request_id,
        "tenant": record.tenant,
        "project": record.project,
        "user_id": record.user_id,
        "api_key": record.api_key,
        "model": record.model,
        "backend": record.backend,
        "route": record.route,
        "streamed": record.streamed,
        "status": record.status,
        "http_status": record.http_status,
        "error": record.error,
        "started_at": _seconds(record.started_us),
        "scheduled_at": None if record.scheduled_us is None else _seconds(record.scheduled_us),
        "first_token_at": None if record.first_token_us is None else _seconds(record.first_token_us),
        "finished_at": _seconds(record.finished_us),
        "prompt_tokens": record.prompt_tokens,
        "cached_tokens": record.cached_tokens,
        "completion_tokens": tokens,
        "tokens_from": record.tokens_from,
        "energy_joules": energy_j,
        "prefill_joules": _joules(record.prefill_uj),
        "decode_joules": _joules(record.decode_uj),
        "joules_per_output_token": energy_j / tokens if energy_j is not None and tokens else None,
        "dynamic_joules": _joules(record.dynamic_uj),
        "static_joules": _joules(static_uj),
        "uncertainty_joules": _joules(record.uncertainty_uj),
        "quality": record.quality,
        "energy_uj": record.energy_uj,
        "prefill_uj": record.prefill_uj,
        "decode_uj": record.decode_uj,
        "dynamic_uj": record.dynamic_uj,
        "uncertainty_uj": record.uncertainty_uj,
        "unmeasured_seconds": _seconds(unmeasured_us),
        "attribution_method": record.method,
        "meter": record.meter,
        "simulated": record.simulated,
        "state": record.state,
        "corrected_at": None if record.corrected_us is None else _seconds(record.corrected_us),
        "correction_joules": _joules(record.correction_uj),
        "gpus": [_share_view(share) for share in record.shares],
        "host_joules": _joules(record.host_uj),
        "host_uj": record.host_uj,
        "host_method": record.host_method,
        "host_unmeasured_seconds": None
        if record.host_unmeasured_us is None
        else _seconds(record.host_unmeasured_us),
        "media": None if record.media is None else _media_view(record.media, energy_j),
        "job": record.job,
        "pue": pue,
        "facility_joules": facility_joules(record, pue),
    }


def _media_view(media: Media, energy_j: float | None) -> dict[str, object]:
    images = media.count if media.kind == "image" else None
    seconds = media.count * media.seconds if media.kind == "video" and media.seconds else None
    steps = media.count * media.steps if media.steps else None
    return {
        "kind": media.kind,
        "count": media.count,
        "size": media.size,
        "steps": media.steps,
        "frames": media.frames,
        "fps": media.fps,
        "seconds": media.seconds,
        "joules_per_image": _per(energy_j, images),
        "joules_per_video_second": _per(energy_j, seconds),
        "joules_per_step": _per(energy_j, steps),
    }


def _per(energy_j: float | None, count: float | None) -> float | None:
    return energy_j / count if energy_j is not None and count else None


def _share_view(share: GpuShare) -> dict[str, object]:
    energy_uj = share.prefill_uj + share.decode_uj
    return {
        "gpu": share.gpu,
        "energy_uj": energy_uj,
        "prefill_uj": share.prefill_uj,
        "decode_uj": share.decode_uj,
        "energy_joules": energy_uj / 1e6,
    }


def books_view(row: BooksRow) -> dict[str, object]:
    """A row of the books as the REST surface shows it: the fields of `BooksView`, ready for JSON."""
    energies = {
        name: getattr(row, f"{name}_uj")
        for name in ("measured", "requests", "idle", "unobserved", "unmeasured")
    }
    return {
        "gpu": row.gpu,
        "boundary": row.boundary,
        "bucket_start_time": None if row.bucket_us is None else _seconds(row.bucket_us),
        "start_time": _seconds(row.t0_us),
        "end_time": _seconds(row.t1_us),
        **{f"{name}_uj": energy_uj for name, energy_uj in energies.items()},
        **{f"{name}_joules": _joules(energy_uj) for name, energy_uj in energies.items()},
        "covered_seconds": _seconds(row.covered_us),
        "not_covered_seconds": _seconds(row.not_covered_us),
        "intervals": row.intervals,
        "balanced": row.balanced,
    }
