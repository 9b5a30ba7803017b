"""What goes into a bill, sums by the hour, and what comes out: charges by the day."""

from __future__ import annotations

from typing import Literal, NamedTuple

import msgspec

from accounting.records import Boundary

Component = Literal["gpu", "host", "idle", "unattributed", "overhead"]
"""gpu, host: what requests drew. idle, unattributed: what was drawn beside them. overhead: the building."""


class Who(NamedTuple):
    """Who asked, and for what. None: not told."""

    project: str | None = None
    user: str | None = None
    api_key: str | None = None
    model: str | None = None


NOBODY = Who()


class Use(NamedTuple):
    """Sums over the requests of one `who` that finished in the UTC hour that starts at `hour_us`.

    The energies are None where none of these requests was measured.
    """

    hour_us: int
    who: Who
    requests: int
    energy_uj: int | None
    host_uj: int | None = None


class Shared(NamedTuple):
    """Sums over the books of all GPUs, or all hosts, of the intervals that start in an hour."""

    hour_us: int
    boundary: Boundary
    idle_uj: int
    unattributed_uj: int
    device_us: int = 0
    """Time of all devices together."""


class Charge(msgspec.Struct, frozen=True, kw_only=True):
    """Energy that someone bears. `rate`, `price`, `cost` are None where no tariff fits or the operator bears.

    Costs are in cost units, carbon in carbon units (`accounting.billing.units`), None where not known.
    """

    day: str
    """UTC, such as 2026-11-23."""
    who: Who
    component: Component
    billed: bool
    """False: the operator bears it."""
    rate: str | None
    price: int | None
    energy_uj: int
    requests: int = 0
    """Requests whose energy this is, with those that were not measured. Only of component `gpu`."""
    location: int | None = None
    market: int | None = None
    embodied: int | None = None
    """Of making the GPUs; shared by use. Only of component `gpu`."""
    corrects: str | None = None
    """The closed period that this belongs to, where it came too late for its invoice."""

    @property
    def cost(self) -> int | None:
        return None if self.price is None else self.energy_uj * self.price
