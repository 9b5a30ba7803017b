"""All of the ledger's memory, in one value that can be written down and taken up again.

A journal segment begins with this value, so that every segment can be replayed on its own.
"""

from __future__ import annotations

import msgspec

from accounting.events import EngineTimes, MeterMethod, RequestStarted, Status, Usage
from accounting.ledger.curve import Curve


class GpuState(msgspec.Struct):
    """One GPU: its curve, how far its books go, and what was learnt of it."""

    gpu: str
    settled_us: int
    curve: Curve
    method: MeterMethod = "none"
    simulated: bool = False
    device: str | None = None
    idle_samples_uw: list[int] = []
    uj_per_work: float | None = None
    """Recent price of one unit of the rule's work on this GPU, for provisional figures."""


class Share(msgspec.Struct):
    """What a request has been charged on one GPU so far."""

    prefill_uj: int = 0
    decode_uj: int = 0


class OpenRequest(msgspec.Struct):
    """A request that is in flight, or finished but not settled on all its GPUs."""

    started: RequestStarted
    gpus: list[str]
    shares: dict[str, Share] = {}
    first_us: int | None = None
    finished_us: int | None = None
    status: Status | None = None
    http_status: int | None = None
    error: str | None = None
    usage: Usage | None = None
    times: EngineTimes | None = None
    seen_tokens: int = 0
    """Stream events counted so far."""
    decode_bins: dict[int, int] = {}
    """Decode work in thousandths of a token, by interval number."""
    prefill_bins: dict[int, int] = {}
    """Prefill work in thousandths of a prompt token, by interval number."""
    prefill_tokens: int = 0
    """Prompt tokens assumed when the prefill was booked."""
    covered_us: dict[str, int] = {}
    uncovered_us: dict[str, int] = {}
    """Time in flight with and without known energy, by GPU."""
    shared_uj: int = 0
    """Energy got in intervals that others worked in too, weighted by their part."""
    edge_uj: int = 0
    """Energy that hangs on where exactly the counter's edges lay."""


class BackendState(msgspec.Struct):
    """One backend: its GPUs, and what was learnt of its requests."""

    gpus: list[str]
    bytes_per_token: float = 4.5
    """Body bytes per prompt token; JSON and a chat template included. A guess until requests finish."""
    tokens_per_s: float = 30.0
    """Decode speed of one request; used only for answers that were not streamed."""
    last_first_us: list[int] = []
    """Times of the latest first tokens, newest last."""


class LedgerState(msgspec.Struct):
    """Everything. `open` is keyed by handle."""

    gpus: dict[str, GpuState] = {}
    backends: dict[str, BackendState] = {}
    open: dict[int, OpenRequest] = {}
    watermarks: dict[int, int] = {}
    """By source: everything before this time has been said."""
    last_handles: dict[int, int] = {}
    """By source: the highest handle heard, so that none is used twice."""
