"""What the routes of diagnosis and capacity answer, and what `joulegate diagnose` and `capacity` print with
--json. The descriptions are the documentation that /docs shows; null means "not known".
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Literal

from pydantic import BaseModel, Field

from accounting.diagnosis.capacity import Capacity, Way
from accounting.diagnosis.diagnose import Diagnosis
from accounting.diagnosis.findings import Finding, Kind

Figure = float | int | str | None


class WhereView(BaseModel):
    requests_uj: int = Field(
        description="of requests that ended in this time, microjoules; of it the next five"
    )
    prefill_uj: int = Field(description="for prompts")
    decode_uj: int = Field(description="for answers")
    static_uj: int | None = Field(description="idle power while they ran")
    aborted_uj: int = Field(description="of requests that were aborted, lost, or failed in the engine")
    retried_uj: int | None = Field(description="of tries that failed; null where only a part is asked about")
    measured_uj: int | None = Field(description="of the GPUs in this time; of it the next three")
    idle_uj: int | None = Field(description="with no request in flight")
    unobserved_uj: int | None = Field(description="of work that did not pass the proxy")
    unmeasured_uj: int | None = Field(description="whose course the meter did not see")


class FindingView(BaseModel):
    cause: str = Field(description="name of the cause, as in docs/diagnosis.md")
    kind: Kind = Field(description="waste, limit, or work: what the requests are like")
    backend: str | None = Field(description="name of the backend, or several with commas")
    what: str = Field(description="what was found, in words")
    change: str = Field(description="what would change it, in words")
    joules: float | None = Field(description="energy that the cause takes part in")
    saving_joules: float | None = Field(
        description="what less would have been drawn for the same requests; below 0 more, null unknown"
    )
    uncertainty_joules: float | None = Field(description="one standard deviation of the saving, estimated")
    evidence: dict[str, Figure] = Field(description="the figures that it stands on, units in their names")


class RuledOutView(BaseModel):
    cause: str = Field(description="name of the cause")
    backend: str | None = Field(description="name of the backend")
    why: str = Field(description="why it is not it, in words")
    unknown: bool = Field(description="true: nobody can tell, as figures are missing")
    evidence: dict[str, Figure] = Field(description="the figures that it stands on")


class DiagnosisView(BaseModel):
    object: Literal["energy.diagnosis"]
    start_time: float = Field(description="what was looked through, in whole minutes or hours, unix seconds")
    end_time: float = Field(description="its end, unix seconds")
    backends: list[str] = Field(description="the backends of which there are facts")
    known_seconds: float = Field(description="time of which there are facts, summed over backends")
    simulated: bool = Field(description="whether any GPU was simulated")
    where: WhereView = Field(description="where the joules went")
    findings: list[FindingView] = Field(description="causes, the most worth changing first")
    ruled_out: list[RuledOutView] = Field(description="causes that were looked for and not found")


def diagnosis_view(found: Diagnosis) -> dict[str, object]:
    return {
        "object": "energy.diagnosis",
        "start_time": found.t0_us / 1e6,
        "end_time": found.t1_us / 1e6,
        "backends": found.backends,
        "known_seconds": found.known_s,
        "simulated": found.simulated,
        "where": asdict(found.where),
        "findings": [_finding(one) for one in found.findings],
        "ruled_out": [{**asdict(one), "evidence": dict(one.evidence)} for one in found.ruled_out],
    }


def _finding(one: Finding) -> dict[str, object]:
    def joules(uj: int | None) -> float | None:
        return None if uj is None else uj / 1e6

    return {
        "cause": one.cause,
        "kind": one.kind,
        "backend": one.backend,
        "what": one.what,
        "change": one.change,
        "joules": joules(one.joules_uj),
        "saving_joules": joules(one.saving_uj),
        "uncertainty_joules": joules(one.uncertainty_uj),
        "evidence": dict(one.evidence),
    }


class SeenView(BaseModel):
    batch: float = Field(description="mean batch of these minutes")
    minutes: int = Field(description="how many they are")
    tokens_per_s: float = Field(description="tokens per second and replica")
    power_w: float = Field(description="watts per replica")
    tokens_per_joule: float = Field(description="that is tokens per second and watt")


class WayView(BaseModel):
    replicas: int = Field(description="how many replicas")
    requests_per_s: float = Field(description="requests per second, of all replicas, as the next two")
    power_w: float = Field(description="watts")
    tokens_per_s: float = Field(description="tokens per second")
    tokens_per_joule: float = Field(description="tokens per second and watt")
    batch: float = Field(description="mean batch of each")
    ttft_ms: float | None = Field(description="time to first token at the percentile asked for")
    itl_ms: float | None = Field(description="time between tokens at the percentile asked for")
    max_num_seqs: int = Field(description="a limit that the batch hardly reaches at this load")
    held_by: str = Field(description="what forbids more: power, ttft, itl, overload, or nothing")
    beyond_seen: bool = Field(description="whether the batch is more than twice any that was seen")


class CapacityView(BaseModel):
    object: Literal["energy.capacity"]
    model: str | None = Field(description="the model")
    backends: list[str] = Field(description="the backends that it stands on")
    gpus_each: int = Field(description="GPUs of each replica")
    simulated: bool = Field(description="whether any GPU was simulated")
    present_requests_per_s: float = Field(description="mean rate in this time")
    peak_requests_per_s: float = Field(description="rate of the busiest minute")
    seen: list[SeenView] = Field(description="throughput per watt against load, as observed")
    most: WayView | None = Field(description="what carries most requests; null: nothing fits")
    by_replicas: list[WayView] = Field(description="the most by number of replicas")
    forecast_requests_per_s: float = Field(description="the rate asked about, else the present one")
    forecast: WayView | None = Field(description="what carries that with least power; null: it does not fit")
    months: float | None = Field(description="until `most` is full, at the growth asked about")
    changed: WayView | None = Field(
        description="`most` with the changed mix; null where none was asked about"
    )
    price_error: float | None = Field(
        description="usual relative error of joules over a second of the work model"
    )
    time_error: float | None = Field(description="the same of its times")


def capacity_view(found: Capacity) -> dict[str, object]:
    return {
        "object": "energy.capacity",
        "model": found.model,
        "backends": found.backends,
        "gpus_each": found.gpus_each,
        "simulated": found.simulated,
        "present_requests_per_s": found.present_per_s,
        "peak_requests_per_s": found.peak_per_s,
        "seen": [asdict(one) for one in found.seen],
        "most": _way(found.most),
        "by_replicas": [_way(one) for one in found.by_replicas],
        "forecast_requests_per_s": found.forecast_per_s,
        "forecast": _way(found.forecast),
        "months": found.months,
        "changed": _way(found.changed),
        "price_error": found.price_error,
        "time_error": found.time_error,
    }


def _way(way: Way | None) -> dict[str, object] | None:
    if way is None:
        return None
    fields = asdict(way)
    per_s = fields.pop("per_s")
    return {**fields, "requests_per_s": per_s, "held_by": way.held_by or "nothing"}
