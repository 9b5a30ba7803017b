"""What the meter and its child process say to each other, besides the ring.

The child gets a `Config` as its only argument. On its standard input it hears single bytes: BUSY or IDLE; the
end of input means that the parent is gone. On its standard output it writes one JSON object per line.
"""

from __future__ import annotations

import msgspec

from accounting.events import MeterDown, MeterMethod, MeterUp

BUSY, IDLE = b"B", b"I"


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


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """What the child is to do: with `ring_fd` sample into that ring, without list the GPUs and end.

    `gpus` are UUIDs, None for all. `offset_us` is the parent's `Clock`. Periods are in seconds.
    """

    ring_fd: int | None = None
    offset_us: int = 0
    busy_period_s: float = 0.03
    idle_period_s: float = 1.0
    gpus: list[str] | None = None
    library: str | None = None


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """A change of a GPU's state, said before the ring's record number `after` was written.

    `slot` is the number under which the ring speaks of this GPU.
    """

    after: int
    slot: int
    event: MeterUp | MeterDown


class Listing(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of a child that was to list the GPUs."""

    gpus: list[GpuInfo] = []
    problem: str | None = None
