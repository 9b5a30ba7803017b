"""What the meter and its child process say to each other, besides the ring.

The child gets a `Config` as its only argument. On its standard input it hears single bytes: BUSY or IDLE; the
end of input means that the parent is gone. On its standard output it writes one JSON object per line.
"""

from __future__ import annotations

import msgspec

from accounting.events import GpuTelemetry, MeterDown, MeterMethod, MeterQuality, MeterUp

BUSY, IDLE = b"B", b"I"

Said = MeterUp | MeterDown | MeterQuality | GpuTelemetry


class SourceInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One way to read a GPU's energy: what is called, whether it answers, and what a call costs."""

    name: str
    method: MeterMethod
    problem: str | None = None
    """NVML's name for why it cannot be used; None where it can."""
    call_us: int | None = None
    """Median duration of a call in microseconds."""


class GpuInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A GPU as NVML describes it. `method` is "none" where no energy can be read, and `problem` says why."""

    index: int
    uuid: str | None
    name: str | None
    power_limit_mw: int | None
    driver_version: str
    simulated: bool
    method: MeterMethod
    problem: str | None = None
    code: str | None = None
    """The problem's code, as in `MeterDown`."""
    sources: list[SourceInfo] = []
    """Every way to read its energy, best first. The first without a problem is the one in use."""
    mig: list[str] | None = None
    """UUIDs of its MIG instances; None where MIG is off. They share this GPU's energy: none has its own."""
    memory_bytes: int | None = None


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """What the child is to do: with `ring_fd` sample into that ring, without list the GPUs and end.

    `gpus` are UUIDs, None for all. `offset_us` is the parent's `Clock`. Periods are in seconds.
    `counter_lag_us` is how far the counter trails the truth, where that has been calibrated.
    """

    ring_fd: int | None = None
    offset_us: int = 0
    busy_period_s: float = 0.03
    idle_period_s: float = 1.0
    gpus: list[str] | None = None
    library: str | None = None
    counter_lag_us: int | None = None
    check_s: float = 5.0
    """How long the counter is compared with power at first, and its steps learnt; 0: not at all."""
    patience_s: float = 10.0
    """How long one GPU may take to answer before it is listed as hanging."""
    better_s: float = 30.0
    """How long a GPU that is not read the best way goes on so before the best way is tried again."""


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """What is said of a GPU besides its reads, said before the ring's record number `after` was written.

    `slot` is the number under which the ring speaks of this GPU.
    """

    after: int
    slot: int
    event: Said


class Listing(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of a child that was to list the GPUs."""

    gpus: list[GpuInfo] = []
    problem: str | None = None
    code: str | None = None
