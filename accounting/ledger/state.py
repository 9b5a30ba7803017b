"""All of the ledger's memory, in one value that can be written down and taken up again.

A journal segment begins with this value, so that every segment can be replayed on its own.
"""

from __future__ import annotations

import msgspec

from accounting.events import MeterMethod, ModelCard
from accounting.ledger.curve import Curve
from accounting.ledger.flights import OpenRequest
from accounting.ledger.jobs_state import JobsState
from accounting.ledger.model import FEATURES, ModelState
from accounting.ledger.prompts import PromptSizes


class GpuState(msgspec.Struct):
    """One GPU: its curve, how far its books go, and what was learnt of it."""

    gpu: str
    settled_us: int
    curve: Curve
    method: MeterMethod = "none"
    simulated: bool = False
    device: str | None = None
    power_limit_mw: int | None = None
    idle_samples_uw: list[int] = []
    node: str | None = None
    """Name of its machine; None: the one where joulegate runs, or not told."""


class HostInterval(msgspec.Struct):
    """What the GPUs of a node gave in an interval of which the host's energy is not split yet.

    Arrays as compressed numbers: handles, what each got in microjoules, for how much of its time. A request
    is there once for each GPU.
    """

    t0_us: int
    idle_uj: int
    unobserved_uj: int
    handles: bytes
    got_uj: bytes
    covered_us: bytes


class HostState(msgspec.Struct):
    """The machine around GPUs: its curve, and how far its books go."""

    host: str
    settled_us: int
    curve: Curve
    node: str | None = None
    """As in MeterUp; None: where joulegate runs."""
    method: MeterMethod = "none"
    present: bool = True
    """False: it is not measured any more, and nobody waits for it."""
    awaited_us: int | None = None
    """When joulegate started again, as long as its meter has not come back since."""
    per_gpu_joule: float | None = None
    """Joules of the host per joule of its GPUs, of late. For provisional figures."""
    waiting: list[HostInterval] = []


class Counted(msgspec.Struct, array_like=True):
    """An engine's totals at a time: tokens generated, prompt tokens computed, steps; who runs, who waits."""

    t_us: int
    generated: int
    prompt: int
    steps: int | None = None
    running: int | None = None
    waiting: int | None = None


class Compared(msgspec.Struct, array_like=True):
    """One interval: tokens as seen here and as the engine counted them."""

    ours: float
    engine: float
    ours_prompt: float
    engine_prompt: float


class Guessed(msgspec.Struct, array_like=True):
    """One interval: tokens that the engine counted and nobody saw, and those assumed of unseen answers."""

    engine: float
    assumed: float


class BackendState(msgspec.Struct):
    """One backend: its GPUs, and what was learnt of its requests."""

    gpus: list[str]
    model: ModelCard | None = None
    prompt_sizes: PromptSizes = msgspec.field(default_factory=PromptSizes)
    tokens_per_s: float = 30.0
    """Decode speed of one sequence; used for answers that are not streamed."""
    us_per_prompt_token: float = 300.0
    """Quick time to first token per prompt token; bounds how long a prefill can have lasted."""
    cached_part: float = 0.0
    """Part of prompts that the prefix cache had, of late."""
    tells_late: bool = False
    """Whether its engine tells the times of requests some seconds after their end."""
    tokens_per_event: float = 1.0
    """Tokens per stream event, of late; more than 1 under speculative decoding."""
    counted: list[Counted] = []
    compared: list[Compared] = []
    guessed: list[Guessed] = []
    """What the engine counts, and how it compares with what is seen here, of late (`bypass.py`)."""
    waits: list[float] = []
    """Recent times to first token per prompt token of long prompts, in microseconds, newest last."""
    last_first_us: list[int] = []
    """Times of the latest first tokens, newest last."""
    jobs: JobsState | None = None
    """Of a backend that stands for the images and videos of another: what is known of these."""
    at_once: int | None = None
    """How many images or videos its server works on at a time, as configured; None: to be learnt."""
    step_joules: float | None = None
    """Recent cost of what a step costs at any batch size, per token of it. For provisional figures."""


class KeptState(msgspec.Struct):
    """An interval of which more may become known (`history.Kept`). Arrays as zlib-compressed numbers."""

    t0_us: int
    energy_j: float
    stale: bool
    learnt: bool
    handles: list[bytes]
    works: list[dict[str, bytes]]
    steps: list[tuple[float, bool, float, float]]
    """By backend: steps, whether a stream told them, tokens and prompt tokens of others. Of images and
    videos: how many ran together, and nothing."""
    gpus: list[tuple[str, int, float | None, list[bytes], list[int]]]
    busy_us: list[int] = []


class HistoryState(msgspec.Struct):
    """A group's kept intervals, and the time before which some were dropped too early."""

    kept: list[KeptState]
    lost_us: int = 0


class OpenMinute(msgspec.Struct):
    """Sums for a `BackendFacts`. See there; `_sum` are over looks."""

    settled_us: int = 0
    busy_us: int = 0
    request_us: int = 0
    arrived: int = 0
    first_us: int = 0
    last_us: int = 0
    requests_uj: int = 0
    idle_uj: int = 0
    unobserved_uj: int = 0
    peak_uw: int = 0
    retries: int = 0
    retried_uj: int = 0
    learnt_us: int = 0
    learnt_j: float = 0.0
    tokens: float = 0.0
    work: list[float] = msgspec.field(default_factory=lambda: [0.0] * len(FEATURES))
    looks: int = 0
    running_sum: int = 0
    waiting_sum: int = 0
    most_running: int | None = None
    looks_waiting: int = 0
    seats: int | None = None
    kv_looks: int = 0
    kv_sum: float = 0.0
    kv_most: float | None = None
    preemptions: int | None = None
    gpu_looks: int = 0
    clock_looks: int = 0
    clock_sum_mhz: int = 0
    reason_looks: int = 0
    capped_looks: int = 0
    throttled_looks: int = 0


class FactsState(msgspec.Struct):
    """What becomes the facts of one backend."""

    open: dict[int, OpenMinute] = {}
    """By the minute's begin."""
    time_model: ModelState | None = None
    """What a unit of work takes, in seconds of the GPU's time."""
    windows: int = 0
    """Windows that the work model had seen: fewer than before, and it has begun anew."""
    preemptions: int | None = None
    """The engine's total."""
    limits_mw: dict[str, tuple[int | None, int | None]] = {}
    """By GPU: power limit in force and by default, as last told."""


class LedgerState(msgspec.Struct):
    """Everything."""

    gpus: dict[str, GpuState] = {}
    hosts: dict[str, HostState] = {}
    backends: dict[str, BackendState] = {}
    models: dict[str, ModelState] = {}
    """By the names of the group's backends."""
    open: dict[int, OpenRequest] = {}
    """By handle."""
    watermarks: dict[int, int] = {}
    """By source: everything before this time has been said."""
    last_handles: dict[int, int] = {}
    """By source: the highest handle heard, so that none is used twice."""
    histories: dict[str, HistoryState] = {}
    """By group: intervals of which more may become known."""
    scales: dict[str, float | None] = {}
    scale_weights: dict[str, float] = {}
    """By group: how far measured energy has been above what the model says of late."""
    facts: dict[str, FactsState] = {}
    """By backend."""
