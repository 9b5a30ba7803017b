"""What the ledger concludes: one record per request, one book entry per GPU and interval, one of facts per
backend and minute.

All energies are integer microjoules. Nullable means "could not be measured" and is never written as 0.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from accounting.events import Media, MeterMethod, Status

TokensFrom = Literal["engine", "stream"]
HostMethod = Literal["rapl", "estimate"]
Boundary = Literal["gpu", "host"]


def boundary_of(device: str) -> Boundary:
    """What the energy of a device is the energy of: a GPU, or the machine around it (`host:NAME`)."""
    return "host" if device.startswith("host:") else "gpu"


def uid_at(t_us: int) -> str:
    """What the uids of requests that start at this time begin with: milliseconds, in twelve hex digits."""
    return f"{t_us // 1000:012x}"


class GpuShare(msgspec.Struct, kw_only=True):
    """A request's part of one GPU's energy."""

    gpu: str
    prefill_uj: int = 0
    decode_uj: int = 0


class RequestRecord(msgspec.Struct, kw_only=True):
    """One request, settled.

    energy_uj = prefill_uj + decode_uj = the sum over `shares`. It is None when no part of the request's time
    was measured. `unmeasured_us` is the part of its time in flight for which its GPUs gave no energy: where
    it is above 0, energy_uj is a lower bound. `uncertainty_uj` is one standard deviation, estimated as
    docs/attribution.md says.
    """

    uid: str
    request_id: str
    backend: str | None
    model: str | None
    route: str
    tenant: str | None
    streamed: bool
    status: Status
    http_status: int | None
    error: str | None
    started_us: int
    first_token_us: int | None
    finished_us: int
    prompt_tokens: int | None
    cached_tokens: int | None
    completion_tokens: int | None
    energy_uj: int | None
    prefill_uj: int | None
    decode_uj: int | None
    uncertainty_uj: int | None
    unmeasured_us: int
    method: str
    meter: MeterMethod
    simulated: bool
    state: Literal["provisional", "final"]
    shares: list[GpuShare]
    dynamic_uj: int | None = None
    """energy_uj without the idle power of its time. None where the idle power is not known."""
    quality: float | None = None
    """Relative error of the work model of late, on energy over one second. None while it has seen nothing."""
    tokens_from: TokensFrom | None = None
    """Who counted completion_tokens: the engine, or joulegate the events of a stream that broke off."""
    corrected_us: int | None = None
    """When its correction came, which is in the figures above. None while there is none."""
    correction_uj: int | None = None
    """What that added to energy_uj; below 0 where it took some away."""
    host_uj: int | None = None
    """Its part of the energy of the machines around its GPUs, which is not in energy_uj. None: not known."""
    host_method: HostMethod | None = None
    """How that was read: by RAPL; `estimate` where any of it comes from configured watts."""
    host_unmeasured_us: int | None = None
    """The part of its time of which it has no host energy: above 0, host_uj is a lower bound. None where no
    host is measured."""
    project: str | None = None
    """Of the virtual key that it came with, like the next two. None: there was no key, or it names none."""
    user_id: str | None = None
    api_key: str | None = None
    """The key's id, never the key."""
    media: Media | None = None
    """Images or videos that it asked for. None: it was for tokens."""
    job: str | None = None
    """Id, at its backend, of the job that it began. None: it was answered at once."""
    scheduled_us: int | None = None
    """When the engine began with its prompt: before that it queued. The engine's word where it gives times,
    else an estimate (`ledger/booking.py`). None where no first token was seen or told."""


class BookEntry(msgspec.Struct, kw_only=True):
    """One GPU or host over one interval [t0_us, t1_us): measured = requests + idle + unobserved + unmeasured.

    `measured_uj` is the counter's difference over the part of the interval that it covers (`covered_us`), and
    None when it covers none of it. `unobserved_uj` is energy drawn by work that did not pass the proxy;
    `unmeasured_uj` energy that the counter shows but whose course the meter did not see.
    """

    gpu: str
    """UUID; `host:NAME` of a host (`boundary_of` tells which)."""
    t0_us: int
    t1_us: int
    covered_us: int
    measured_uj: int | None
    requests_uj: int
    idle_uj: int
    unobserved_uj: int
    unmeasured_uj: int
    requests: int
    method: MeterMethod
    simulated: bool


class Correction(msgspec.Struct, kw_only=True):
    """What a request's final record turned out to be off by, as something was told late. At most one each.

    The figures ending in `_uj` are differences, to be added to the record's; what one request loses others
    gain, so that no book changes. `uncertainty_uj`, `first_token_us` and `scheduled_us` are the new
    values.
    """

    uid: str
    request_id: str
    corrected_us: int
    prefill_uj: int
    decode_uj: int
    dynamic_uj: int | None
    uncertainty_uj: int | None
    first_token_us: int | None
    shares: list[GpuShare]
    scheduled_us: int | None = None

    @property
    def energy_uj(self) -> int:
        return self.prefill_uj + self.decode_uj


MINUTE_US = 60_000_000

FREE = 0.02
"""Clocks were free in a minute in which at most this part of the looks found them held down."""


class BackendFacts(msgspec.Struct, kw_only=True):
    """How one backend worked in the minute that begins at `t0_us`: what a diagnosis is made of.

    Of all its GPUs together, and of what was settled and measured in whole intervals. Lists have a figure for
    each of the work model's features, in their order (`ledger.model.FEATURES`). The figures are for reading:
    no book is made of them. None where something was not told or never known.
    """

    backend: str
    t0_us: int
    gpus: list[str]
    simulated: bool
    settled_us: int
    """Time of the minute that the figures are of."""
    busy_us: int
    """Of it with at least one request in flight."""
    request_us: int
    """Times in flight of all requests, summed: over busy_us their mean number."""
    arrived: int
    """Requests that came, tries included."""
    arriving_us: int
    """From the first of them to the last."""
    requests_uj: int
    """Energy that its requests were charged, as first settled."""
    idle_uj: int
    """Idle energy of its GPUs; of a GPU that serves several backends an equal part."""
    unobserved_uj: int
    peak_w: float
    """Highest mean power over half a second, all its GPUs."""
    static_w: float | None
    """Idle power of its GPUs, as learnt."""
    retries: int
    retried_uj: int
    """Tries that it failed, and their energy: it is in the records of requests that went elsewhere."""
    learnt_us: int
    """Time with requests in flight in the intervals that the next four are of, later news included."""
    learnt_uj: int
    """Energy of all work in these intervals, that of others included."""
    tokens: float
    """Tokens generated, first ones included."""
    work: list[float]
    """The features, summed."""
    prices: list[float]
    """Joules per unit of each feature, as the work model said at the end of the minute."""
    times: list[float]
    """Seconds per unit of each, likewise."""
    price_error: float | None
    """Usual relative error of the work model over a second; None before it learnt."""
    time_error: float | None
    looks: int
    """Answers of the engine's own counters, of which the next seven are."""
    running: float | None
    waiting: float | None
    """Means over the looks."""
    most_running: int | None
    looks_waiting: int
    """Looks at which some waited."""
    seats: int | None
    """Most that ran while some waited."""
    kv_used: float | None
    """Part of the KV cache in use, mean."""
    kv_most: float | None
    preemptions: int | None
    gpu_looks: int
    """Answers of the GPUs about themselves, of which the next are."""
    limit_w: float | None
    """Power limits in force, summed over the GPUs; what they had by default."""
    default_limit_w: float | None
    sm_clock_mhz: float | None
    capped: float | None
    """Part of the looks at which a power limit held clocks down; heat or a power brake."""
    throttled: float | None


Booked = RequestRecord | BookEntry | Correction
"""What joules are accounted in."""

Output = Booked | BackendFacts


def corrected(record: RequestRecord, by: Correction) -> RequestRecord:
    """The record with its correction added."""
    gained = {share.gpu: share for share in by.shares}
    none = GpuShare(gpu="")
    return msgspec.structs.replace(
        record,
        energy_uj=(record.energy_uj or 0) + by.energy_uj,
        prefill_uj=(record.prefill_uj or 0) + by.prefill_uj,
        decode_uj=(record.decode_uj or 0) + by.decode_uj,
        dynamic_uj=None
        if record.dynamic_uj is None or by.dynamic_uj is None
        else record.dynamic_uj + by.dynamic_uj,
        uncertainty_uj=by.uncertainty_uj,
        first_token_us=by.first_token_us,
        scheduled_us=by.scheduled_us,
        shares=[
            GpuShare(
                gpu=share.gpu,
                prefill_uj=share.prefill_uj + gained.get(share.gpu, none).prefill_uj,
                decode_uj=share.decode_uj + gained.get(share.gpu, none).decode_uj,
            )
            for share in record.shares
        ],
        corrected_us=by.corrected_us,
        correction_uj=by.energy_uj,
    )
