"""What happened: the one vocabulary that the proxy says, the journal keeps and the ledger hears.

Times are UTC microseconds (`t_us`), energies integers with their unit in the name. Every type is a
`msgspec.Struct` with a short tag, so that one journal line is one JSON object such as
`{"type":"tick","t_us":1,"source":0,"handles":[3],"tokens":[2]}`.

A `handle` is an integer that names a request: its source in the bits above HANDLE_BITS, a running number
below. It keeps ticks short.
Order matters: the ledger hears events in the order of the journal, and nothing else decides the result.
"""

from __future__ import annotations

from typing import Literal

import msgspec

Status = Literal["ok", "client_error", "engine_error", "aborted", "lost", "rejected"]
"""How a request ended.

`ok` answered whole; `client_error` the engine refused it (4xx); `engine_error` the engine failed, died or
answered garbage; `aborted` the client went away; `lost` the proxy itself died; `rejected` refused by the
proxy before it reached an engine.
"""

MeterMethod = Literal[
    "nvml-counter",
    "nvml-power",
    "nvml-power-average",
    "zeusd-counter",
    "zeusd-power",
    "dcgm-counter",
    "dcgm-power",
    "rapl",
    "estimate",
    "none",
]
"""How joules are read.

Of a GPU, best first: by NVML here or by a joulegate meter on its node; from a zeusd; from a DCGM exporter.
Each from the energy counter, or from power integrated over time (`nvml-power-average`: from a mean over the
last second, which hides short bursts). Of a host: its RAPL counters, or an estimate
from its configured power. `none`: not at all.
"""

LASTING_COUNTERS: frozenset[MeterMethod] = frozenset({"nvml-counter", "zeusd-counter", "dcgm-counter"})
"""Methods whose values go on where they were when a meter comes back. The others begin at 0 each time."""


HANDLE_BITS = 40


MAIN = 0
"""The source that also says what meters, engines and settings tell. Others are workers, which only relay."""


def source_of(handle: int) -> int:
    """The source that made this handle."""
    return handle >> HANDLE_BITS


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", omit_defaults=True):
    """Base of all events."""


class ModelCard(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is known of a model before any measurement. None where unknown."""

    name: str
    total_params: float | None = None
    active_params: float | None = None
    layers: int | None = None
    hidden: int | None = None
    kv_bytes_per_token: float | None = None
    weight_bytes: float | None = None
    experts: int | None = None
    experts_per_token: int | None = None


MediaKind = Literal["image", "video"]


class Media(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Images or videos that a request asks for. None where neither the request nor the server says it."""

    kind: MediaKind
    count: int = 1
    width: int | None = None
    """Of one image, in pixels, as is the height."""
    height: int | None = None
    steps: int | None = None
    """Denoising steps of one image or video."""
    frames: int | None = None
    """Of one video; None for images."""
    fps: float | None = None
    """Frames per second of the video as it is played."""

    @property
    def size(self) -> str | None:
        """`WxH`, as OpenAI writes it."""
        return None if self.width is None or self.height is None else f"{self.width}x{self.height}"

    @property
    def seconds(self) -> float | None:
        """Length of one video as it is played."""
        return self.frames / self.fps if self.frames is not None and self.fps else None


class ServiceStarted(Event, tag="service", frozen=True, kw_only=True):
    """A source of events came up. Requests it had left open are lost: whoever served them is gone."""

    t_us: int
    source: int
    version: str


class ServiceEnded(Event, tag="service_ended", frozen=True, kw_only=True):
    """A source is gone: nobody waits for its ticks any more, and requests it left open are lost."""

    t_us: int
    source: int


class BackendDeclared(Event, tag="backend", frozen=True, kw_only=True):
    """A backend and the GPUs (by UUID) whose energy its requests are charged with."""

    t_us: int
    backend: str
    gpus: list[str]
    model: ModelCard | None = None
    tells_late: bool = False
    """Whether its engine tells the times of requests some seconds after their end, in traces."""
    at_once: int | None = None
    """How many images or videos it works on at a time; None: to be learnt."""


class MeterUp(Event, tag="meter", frozen=True, kw_only=True):
    """A GPU can be measured, and how. Said at start and whenever it comes back."""

    t_us: int
    gpu: str
    device: str
    method: MeterMethod
    simulated: bool = False
    lag_us: int = 0
    power_limit_mw: int | None = None
    period_us: int = 0
    """Time between two changes of what is served, where that is longer than the counter's own period."""
    index: int | None = None
    """Its place in the machine's own (PCI) order."""
    source: str | None = None
    """What is called for it, e.g. `nvmlDeviceGetTotalEnergyConsumption`."""
    note: str | None = None
    """Why nothing better is used; None where this is the best there is."""
    new_epoch: bool = False
    """The counter started over or jumped: what was drawn since the last read before this is not known."""
    node: str | None = None
    """Name of the machine it is in; None: the one where joulegate runs, or not told."""


class MeterDown(Event, tag="meter_down", frozen=True, kw_only=True):
    """A GPU cannot be read any more. `code` is NVML's name for the fault or ours."""

    t_us: int
    gpu: str
    code: str
    message: str


class CrossCheck(msgspec.Struct, frozen=True, kw_only=True):
    """The energy counter beside power summed over the same time, both in millijoules.

    They agree when they differ by at most `allowed_mj`: a tenth, and what the counter's steps leave open.
    """

    over_us: int
    counter_mj: int
    power_mj: int
    allowed_mj: int

    @property
    def agrees(self) -> bool:
        return abs(self.counter_mj - self.power_mj) <= self.allowed_mj


class MeterQuality(Event, tag="meter_quality", frozen=True, kw_only=True):
    """How well a GPU is measured, as far as it is known. The ledger does not hear it.

    Calls are those for its energy, of late. `counter_period_us` is the time between two steps of its counter,
    `counter_jitter_us` their standard deviation from an even beat; both are learnt from the reads. The
    counter's lag cannot be seen in its reads: it is what a calibration said.
    """

    t_us: int
    gpu: str
    read_period_us: int | None = None
    """Time between two reads now."""
    call_p50_us: int | None = None
    call_p95_us: int | None = None
    counter_period_us: int | None = None
    counter_jitter_us: int | None = None
    counter_lag_us: int | None = None
    check: CrossCheck | None = None
    warning: str | None = None
    """What an operator should know: slow calls, or a counter that power contradicts."""


class GpuTelemetry(Event, tag="gpu", frozen=True, kw_only=True):
    """What a GPU says of itself, once per second or seldomer. None where it does not say.

    `clock_reasons` are the names of what holds its clocks down, such as `sw_power_cap`; one that has no name
    here is its bit, such as `0x400`. No joule depends on it: the ledger hears it for facts only.
    """

    t_us: int
    gpu: str
    power_mw: int | None = None
    power_limit_mw: int | None = None
    """The limit in force."""
    default_power_limit_mw: int | None = None
    sm_clock_mhz: int | None = None
    memory_clock_mhz: int | None = None
    clock_reasons: list[str] | None = None
    utilization_percent: int | None = None
    """Part of the last sampling period in which a kernel ran: NVML's figure, not how full the GPU was."""
    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None
    temperature_c: int | None = None


class CounterReads(Event, tag="reads", frozen=True, kw_only=True):
    """Reads of one GPU's cumulative energy, in order. Read k was taken between t_lo_us[k] and t_hi_us[k].

    Repeated values are kept: the staircase's edges lie between them.
    """

    gpu: str
    t_lo_us: list[int]
    t_hi_us: list[int]
    energy_mj: list[int]


class RequestStarted(Event, tag="started", frozen=True, kw_only=True):
    """A request was dispatched to a backend (or refused: then `finished` follows at once)."""

    t_us: int
    handle: int
    uid: str
    request_id: str
    backend: str | None
    model: str | None
    route: str
    tenant: str | None = None
    streamed: bool = False
    body_bytes: int = 0
    sequences: int = 1
    """Sequences that decode side by side: `n` times the number of prompts."""
    project: str | None = None
    """Of the virtual key that it came with, like the next two."""
    user_id: str | None = None
    api_key: str | None = None
    """The key's id, never the key."""
    media: Media | None = None
    """Images or videos that it asks for, as far as the request says it. None: it is for tokens."""


class RequestMoved(Event, tag="moved", frozen=True, kw_only=True):
    """The backend failed before it answered anything, and the request goes to another one, or there again.

    What the failed try cost stays with the request.
    """

    t_us: int
    handle: int
    backend: str


class MediaTold(Event, tag="media", frozen=True, kw_only=True):
    """More is known of the images or videos that a request asks for: a long form has passed, or the server
    said what it makes."""

    t_us: int
    handle: int
    media: Media


class JobStarted(Event, tag="job", frozen=True, kw_only=True):
    """The backend took the request as a job of its own, known there by the id `job`.

    It goes on whatever becomes of the client, or of joulegate, until `finished` tells of its end.
    """

    t_us: int
    handle: int
    job: str


class FirstToken(Event, tag="first", frozen=True, kw_only=True):
    """The first token of a streamed request reached the proxy: its prefill is over.

    The counts are those of the prompt, where the engine tells them this early.
    """

    t_us: int
    handle: int
    prompt_tokens: int | None = None
    cached_tokens: int | None = None


class Tick(Event, tag="tick", frozen=True, kw_only=True):
    """Everything this source saw before `t_us` has now been said.

    `tokens[k]` events arrived for the request `handles[k]` since the source's last tick. They count stream
    events, which are not exactly tokens: the usage at the end corrects them.
    """

    t_us: int
    source: int
    handles: list[int] = []
    tokens: list[int] = []


class Usage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Token counts as the engine reported them. None where it did not."""

    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    completion_tokens: int | None = None


class EngineTimes(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Times the engine reported for one request, in milliseconds. vLLM counts TTFT from scheduling."""

    queue_ms: float | None = None
    first_token_ms: float | None = None
    generation_ms: float | None = None


class RequestFinished(Event, tag="finished", frozen=True, kw_only=True):
    """The last byte is about to be passed to the client, or the request ended otherwise."""

    t_us: int
    handle: int
    status: Status
    http_status: int | None = None
    usage: Usage | None = None
    times: EngineTimes | None = None
    error: str | None = None
    goes_on: bool = False
    """Nobody waits for the answer any more, but a server that has begun works on it to the end."""


class RequestTimes(Event, tag="times", frozen=True, kw_only=True):
    """Times of one of a request's sequences, as its engine told them in a trace.

    They come once the sequence has ended, as a rule up to 5 s later (OpenTelemetry's batches). A request of
    several sequences gets one of these for each. `t_us` is when they arrived.
    """

    t_us: int
    handle: int
    times: EngineTimes


class EngineCounters(Event, tag="counters", frozen=True, kw_only=True):
    """An engine's own counters, summed over the engines behind one address. None where it has no such one.

    `running` and `waiting` are requests now. The others are totals since the engine started: one that falls
    was reset, as the engine started again. `cached_tokens` are part of `prompt_tokens`. `t_us` is when the
    answer arrived.
    """

    t_us: int
    backend: str
    steps: int | None = None
    running: int | None = None
    waiting: int | None = None
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    generation_tokens: int | None = None
    preemptions: int | None = None
    kv_used: float | None = None
    """Part of the KV cache in use now, 0 to 1; of several engines their mean."""


AnyEvent = (
    ServiceStarted
    | ServiceEnded
    | BackendDeclared
    | MeterUp
    | MeterDown
    | MeterQuality
    | GpuTelemetry
    | CounterReads
    | RequestStarted
    | RequestMoved
    | MediaTold
    | JobStarted
    | FirstToken
    | Tick
    | RequestFinished
    | RequestTimes
    | EngineCounters
)
