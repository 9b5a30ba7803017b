"""Money and carbon as integers, and exact ways to divide them.

Energy is in microjoules and a price in billionths of the currency per kWh, so that their product is an
integer: a cost in *cost units*. Carbon is held alike. Nothing is rounded before it is shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

UJ_PER_KWH = 3_600_000_000_000
PRICE_DIGITS = 9
"""Digits behind the point that a price per kWh may have."""
COST_UNIT: int = UJ_PER_KWH * 10**PRICE_DIGITS
"""Cost units in one unit of the currency: 1 uJ at a billionth of the currency per kWh is 1."""
FACTOR_DIGITS = 6
"""Digits behind the point that grams of CO2 equivalent per kWh may have."""
CARBON_UNIT: int = UJ_PER_KWH * 10**FACTOR_DIGITS
"""Carbon units in one gram of CO2 equivalent."""

SHOWN_COST_DIGITS = 10
"""Digits behind the point of a cost that is no invoice's: to the microjoule at any usual price."""

_WITHOUT = "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF"
_WITH_THREE = "BHD IQD JOD KWD LYD OMR TND"
MINOR_DIGITS = {
    **dict.fromkeys(_WITHOUT.split(), 0),
    **dict.fromkeys(_WITH_THREE.split(), 3),
    "CLF": 4,
    "UYW": 4,
}
"""Digits behind the point of a currency's smallest unit where they are not 2 (ISO 4217, list one)."""


def minor_digits(currency: str) -> int:
    """Digits behind the point of the smallest unit of an ISO 4217 currency."""
    return MINOR_DIGITS.get(currency, 2)


def scaled(value: Decimal, digits: int) -> int:
    """`value` in units of its last of `digits` digits. Raises ValueError where it has more digits."""
    shifted = value.scaleb(digits)
    if shifted != shifted.to_integral_value():
        raise ValueError(f"{value} has more than {digits} digits behind the point")
    return int(shifted)


def share(total: int, weights: Sequence[int]) -> list[int]:
    """Divide `total` in proportion to `weights` (>= 0, not all 0) into integers that sum to it.

    By largest remainder: each gets its share rounded towards 0, and what is left goes in ones to those who
    lost most by that, the earlier first. A weight of 0 gets 0.
    """
    whole = sum(weights)
    if whole <= 0 or min(weights) < 0:
        raise ValueError("weights must not be negative, and one has to be above 0")
    sign, amount = (-1, -total) if total < 0 else (1, total)
    parts, lost = [], []
    for weight in weights:
        part, rest = divmod(amount * weight, whole)
        parts.append(part)
        lost.append(rest)
    for place in _largest(lost)[: amount - sum(parts)]:
        parts[place] += 1
    return [sign * part for part in parts]


def rounded(amounts: Sequence[int], unit: int) -> tuple[int, list[int]]:
    """`amounts` in whole `unit`s: their sum, rounded half away from 0, and parts that sum to it exactly.

    The parts are rounded down, and the largest remainders up until the sum is right.
    """
    parts, lost = [], []
    for amount in amounts:
        part, rest = divmod(amount, unit)
        parts.append(part)
        lost.append(rest)
    total = nearest(sum(amounts), unit)
    for place in _largest(lost)[: total - sum(parts)]:
        parts[place] += 1
    return total, parts


def nearest(amount: int, unit: int) -> int:
    """`amount` / `unit`, rounded half away from 0 as invoices do."""
    whole = (2 * abs(amount) + unit) // (2 * unit)
    return -whole if amount < 0 else whole


def _largest(remainders: Sequence[int]) -> list[int]:
    return sorted(range(len(remainders)), key=lambda place: (-remainders[place], place))


def decimal(amount: int, unit: int, digits: int) -> Decimal:
    """`amount` / `unit` to `digits` digits behind the point, rounded half away from 0."""
    return Decimal(nearest(amount * 10**digits, unit)).scaleb(-digits)


def money(cost: int, digits: int = SHOWN_COST_DIGITS) -> Decimal:
    """A cost in the currency."""
    return decimal(cost, COST_UNIT, digits)


def grams(carbon: int, digits: int = 9) -> Decimal:
    """Carbon in grams of CO2 equivalent."""
    return decimal(carbon, CARBON_UNIT, digits)


def joules(energy_uj: int) -> Decimal:
    """Exactly."""
    return Decimal(energy_uj).scaleb(-6)
