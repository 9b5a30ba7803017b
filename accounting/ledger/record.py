"""What is known of one request, as a record."""

from __future__ import annotations

from math import isqrt

from accounting.ledger.flights import Flights, Whole
from accounting.ledger.group import Group
from accounting.records import Correction, GpuShare, RequestRecord

METHOD = "work-model"

SHARED_ERROR = 0.06
"""One standard deviation of the split of shared energy when the model fits well (docs/attribution.md)."""

LEARNING_WINDOWS = 60
LEARNING_ERROR = 0.25
"""The same while the model has seen less than this many windows: it stands mostly on its priors."""


def record_of(flights: Flights, row: int, group: Group | None, *, final: bool) -> RequestRecord:
    """A request's record when it is settled, the settled part of it before."""
    told = flights.teller(row)
    started, usage, names = told.started, told.usage, told.gpus
    counted = usage.completion_tokens if usage else None
    whole = flights.whole(row)
    tokens = counted if counted is not None else whole.seen or None
    by_prefill, by_decode, covered, uncovered = flights.by_gpu(row, len(names))
    prefill, decode = sum(by_prefill), sum(by_decode)
    rejected = told.status == "rejected"
    measured = rejected or any(covered)
    gpus = [gpu for gpu in group.gpus if gpu.gpu in names] if group is not None else []
    quality = group.model.quality if group is not None and measured and not rejected else None
    return RequestRecord(
        uid=started.uid,
        request_id=started.request_id,
        backend=started.backend,
        model=started.model,
        route=started.route,
        tenant=started.tenant,
        project=started.project,
        user_id=started.user_id,
        api_key=started.api_key,
        streamed=started.streamed,
        status=told.status or "ok",
        http_status=told.http_status,
        error=told.error,
        started_us=started.t_us,
        first_token_us=whole.first or None,
        finished_us=whole.end or started.t_us,
        prompt_tokens=usage.prompt_tokens if usage else None,
        cached_tokens=usage.cached_tokens if usage else None,
        completion_tokens=tokens,
        tokens_from="engine" if counted is not None else "stream" if tokens is not None else None,
        energy_uj=prefill + decode if measured else None,
        prefill_uj=prefill if measured else None,
        decode_uj=decode if measured else None,
        dynamic_uj=None if not measured or whole.undivided_uj else whole.dynamic_uj,
        uncertainty_uj=_uncertainty(whole, group) if measured else None,
        quality=quality,
        unmeasured_us=max(uncovered) if uncovered else 0,
        method="not-dispatched" if rejected else METHOD if measured else "none",
        meter=gpus[0].method if gpus and measured else "none",
        simulated=any(gpu.simulated for gpu in gpus),
        state="final" if final else "provisional",
        media=told.media,
        job=told.job,
        scheduled_us=min(whole.pre0, whole.first) or None if told.media is None else None,
        shares=[
            GpuShare(gpu=gpu, prefill_uj=p, decode_uj=d)
            for gpu, p, d in zip(names, by_prefill, by_decode, strict=True)
            if p or d or (measured and not rejected)
        ],
    )


def add_try(record: RequestRecord, failed: RequestRecord) -> None:
    """Add to a request's record what an earlier try at another backend cost."""
    record.unmeasured_us += failed.unmeasured_us
    _add_host(record, failed)
    if failed.energy_uj is None:
        return
    record.energy_uj = (record.energy_uj or 0) + failed.energy_uj
    record.prefill_uj = (record.prefill_uj or 0) + (failed.prefill_uj or 0)
    record.decode_uj = (record.decode_uj or 0) + (failed.decode_uj or 0)
    if record.dynamic_uj is not None:
        record.dynamic_uj = None if failed.dynamic_uj is None else record.dynamic_uj + failed.dynamic_uj
    record.uncertainty_uj = isqrt((record.uncertainty_uj or 0) ** 2 + (failed.uncertainty_uj or 0) ** 2)
    by_gpu = {share.gpu: share for share in record.shares}
    for share in failed.shares:
        if (mine := by_gpu.get(share.gpu)) is not None:
            mine.prefill_uj, mine.decode_uj = (
                mine.prefill_uj + share.prefill_uj,
                mine.decode_uj + share.decode_uj,
            )
        else:
            record.shares.append(share)
    if record.method == "none":
        record.method, record.meter = failed.method, failed.meter


def _add_host(record: RequestRecord, failed: RequestRecord) -> None:
    if failed.host_unmeasured_us is not None:
        record.host_unmeasured_us = (record.host_unmeasured_us or 0) + failed.host_unmeasured_us
    if failed.host_uj is not None:
        record.host_uj = (record.host_uj or 0) + failed.host_uj
        record.host_method = "estimate" if "estimate" in (record.host_method, failed.host_method) else "rapl"


def is_as_recorded(flights: Flights, row: int, record: RequestRecord) -> bool:
    """Whether the request has just what this record of it says, on each GPU."""
    gpus = flights.teller(row).gpus
    recorded = {share.gpu: (share.prefill_uj, share.decode_uj) for share in record.shares}
    prefill, decode, _, _ = flights.by_gpu(row, len(gpus))
    now = zip(prefill, decode, strict=True)
    return all(recorded.get(gpu, (0, 0)) == uj for gpu, uj in zip(gpus, now, strict=True))


def correction_of(was: RequestRecord, now: RequestRecord, t_us: int) -> Correction | None:
    """What the second record of a request says differently than the first; None where nothing is."""
    before = {share.gpu: share for share in was.shares}
    none = GpuShare(gpu="")
    shares = [
        GpuShare(
            gpu=share.gpu,
            prefill_uj=share.prefill_uj - before.get(share.gpu, none).prefill_uj,
            decode_uj=share.decode_uj - before.get(share.gpu, none).decode_uj,
        )
        for share in now.shares
    ]
    if not any(share.prefill_uj or share.decode_uj for share in shares):
        return None
    known = now.dynamic_uj is not None and was.dynamic_uj is not None
    return Correction(
        uid=now.uid,
        request_id=now.request_id,
        corrected_us=t_us,
        prefill_uj=(now.prefill_uj or 0) - (was.prefill_uj or 0),
        decode_uj=(now.decode_uj or 0) - (was.decode_uj or 0),
        dynamic_uj=(now.dynamic_uj or 0) - (was.dynamic_uj or 0) if known else None,
        uncertainty_uj=now.uncertainty_uj,
        first_token_us=now.first_token_us,
        scheduled_us=now.scheduled_us,
        shares=shares,
    )


def _uncertainty(whole: Whole, group: Group | None) -> int:
    """One standard deviation: where the counter's edges lay, and how energy was split with others."""
    model = group.model if group is not None else None
    relative = LEARNING_ERROR
    if model is not None and model.windows >= LEARNING_WINDOWS:
        relative = min(SHARED_ERROR + model.usual_error, LEARNING_ERROR)
    split = round(whole.shared_uj * relative)
    return isqrt(whole.edge_uj**2 + split**2)
