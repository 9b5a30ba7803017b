"""What was agreed: currency, tariffs, and who bears what no request drew. Kept with every closed period."""

from __future__ import annotations

from typing import Literal

import msgspec

from accounting.billing.tariff import Tariffs

Bearer = Literal["operator", "by_use", "by_reservation"]
"""Who bears shared energy: the operator; projects by the energy their requests drew that day; or projects by
the part of the machines reserved for them."""

FRACTION_DIGITS = 6
ONE = 10**FRACTION_DIGITS
"""Reserved parts and PUE are held in millionths."""


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    currency: str | None = None
    """ISO 4217. None: nothing is priced."""
    tariffs: Tariffs = Tariffs()
    idle: Bearer = "operator"
    """Energy of GPUs (and hosts) while no request ran."""
    unattributed: Bearer = "operator"
    """Energy that the books give to no request and that is not idle: unobserved and unmeasured."""
    overhead: Bearer = "operator"
    """Energy of the building: (PUE - 1) times all of the above."""
    pue: int | None = None
    """Millionths: 1.2 is 1_200_000. None: not known, and no overhead is told."""
    host: bool = False
    """Whether energy of hosts is charged for, too. If not, the operator bears it."""
    reservations: dict[str, int] = {}
    """By project, millionths of the machines. What is reserved for nobody the operator bears."""
    embodied: int | None = None
    """Micrograms of CO2 equivalent for each hour of a GPU: its making, over its life. None: not known."""
    issuer: str = "joulegate"
    """Who sends the invoices."""
