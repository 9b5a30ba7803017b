"""The true energy of one request for images or a video."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from simulator.diffusion.cards import Kind
from simulator.diffusion.scheduler import Phase
from simulator.truth import new_serial


@dataclass(eq=False, slots=True)
class MediaAccount:
    """One request. Energies in microjoules by phase, times in CLOCK_MONOTONIC microseconds, None before them.

    `state` is open; ok; aborted, where it ran and nobody waited for it; dropped, where it never ran. `job` is
    the id of the video job.
    """

    request_id: str
    kind: Kind
    outputs: int
    width: int
    height: int
    steps: int
    frames: int
    arrived_us: int = 0
    job: str | None = None
    scheduled_us: int | None = None
    finished_us: int | None = None
    state: str = "open"
    encode_uj: int = 0
    steps_uj: int = 0
    decode_uj: int = 0
    serial: int = field(default_factory=new_serial)

    @property
    def energy_uj(self) -> int:
        return self.encode_uj + self.steps_uj + self.decode_uj

    def take(self, phase: Phase, share_uj: int) -> None:
        if phase is Phase.ENCODE:
            self.encode_uj += share_uj
        elif phase is Phase.STEPS:
            self.steps_uj += share_uj
        else:
            self.decode_uj += share_uj

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "energy_uj": self.energy_uj}
