"""A GPU held below a power limit, by lower clocks. Pure.

A step that asks for more than the limit runs at a part f of its clock. All of it takes 1/f as long, and

    power = busy + (asked - busy) f v^2        v = max(f, 0.75), the voltage as a part of its own

where `busy` flows as long as a step runs, whatever it does (`GpuCard.busy_power_w`). So a limit a little
below what is asked saves energy, as the voltage falls with the clock, and one far below wastes it: the
voltage has reached its floor, and busy power flows for ever longer steps. The form is the usual one for CMOS
circuits; the floor, and that memory slows down like arithmetic, are chosen and not measured.
"""

from __future__ import annotations

from collections.abc import Sequence as Many
from dataclasses import replace

import numpy as np

from simulator.physics import Amount, Floats, Physics, PrefillChunk, Rates, StepCost

VOLTAGE_FLOOR = 0.75


class LimitedPhysics(Physics):
    """`physics` on GPUs that together may draw `limit_w`, of which `busy_w` do not depend on the clock.

    Raises ValueError for a limit that leaves nothing to run with.
    """

    def __init__(self, physics: Physics, limit_w: float, busy_w: float) -> None:
        if limit_w <= busy_w:
            raise ValueError(f"busy power of {busy_w:g} W leaves nothing below a limit of {limit_w:g} W")
        self.model = physics.model
        self._physics, self._limit_w, self._busy_w = physics, limit_w, busy_w

    def clock(self, asked_w: Amount) -> Amount:
        """The part of its clock at which a step runs that asks for so much power."""
        part = (self._limit_w - self._busy_w) / np.maximum(asked_w - self._busy_w, 1e-9)
        slow: Amount = np.where(
            part >= VOLTAGE_FLOOR**3, np.minimum(part, 1.0) ** (1 / 3), part / VOLTAGE_FLOOR**2
        )
        return slow

    def rates(self, requests: int, tokens: int) -> tuple[Rates, Rates]:
        return self._physics.rates(requests, tokens)

    def drawn_j(self, asked_j: Amount, time_s: Amount) -> Amount:
        return self._physics.drawn_j(asked_j, time_s)

    def step(self, decode_contexts: Many[int], chunks: Many[PrefillChunk] = ()) -> StepCost:
        free = self._physics.step(decode_contexts, chunks)
        time_s, energy_j = self._held(free.time_s, free.energy_j)
        scale = energy_j / free.energy_j
        return replace(
            free,
            time_s=time_s,
            energy_j=energy_j,
            decode_j=[j * scale for j in free.decode_j],
            prefill_j=[j * scale for j in free.prefill_j],
        )

    def totals(self, decodes: int, context_sum: int, chunks: Many[PrefillChunk]) -> tuple[float, float]:
        return self._held(*self._physics.totals(decodes, context_sum, chunks))

    def decode_run(self, decodes: int, context_sum: int, steps: int) -> tuple[Floats, Floats]:
        return self._held(*self._physics.decode_run(decodes, context_sum, steps))

    def _held(self, time_s: Amount, energy_j: Amount) -> tuple[Amount, Amount]:
        asked_w = energy_j / time_s
        longer_s = time_s / self.clock(asked_w)
        held: Amount = np.minimum(asked_w, self._limit_w) * longer_s
        return longer_s, held
