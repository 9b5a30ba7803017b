from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accounting.billing.units import COST_UNIT, decimal, minor_digits, money, nearest, rounded, scaled, share


@given(st.integers(-(10**24), 10**24), st.lists(st.integers(0, 10**18), min_size=1).filter(any))
def test_shares_sum_to_the_whole_and_none_is_off_by_one(total: int, weights: list[int]) -> None:
    parts = share(total, weights)
    assert sum(parts) == total
    for part, weight in zip(parts, weights, strict=True):
        assert abs(part * sum(weights) - total * weight) < sum(weights)


@given(st.lists(st.integers(-(10**30), 10**30)), st.integers(1, 10**22))
def test_rounded_parts_sum_to_the_rounded_total(amounts: list[int], unit: int) -> None:
    total, parts = rounded(amounts, unit)
    assert sum(parts) == total == nearest(sum(amounts), unit)
    assert abs(2 * (total * unit - sum(amounts))) <= unit
    assert all(abs(part * unit - amount) < 2 * unit for part, amount in zip(parts, amounts, strict=True))


def test_what_is_left_goes_to_the_largest_remainders() -> None:
    assert share(10, [1, 1, 1]) == [4, 3, 3]
    assert share(10, [0, 6, 5]) == [0, 5, 5]
    assert share(-10, [2, 1]) == [-7, -3]
    assert rounded([140, 140, 120], 100) == (4, [2, 1, 1])


@pytest.mark.parametrize("weights", [[], [0, 0], [2, -1]])
def test_shares_of_nobody_are_refused(weights: list[int]) -> None:
    with pytest.raises(ValueError, match=r"weights|empty"):
        share(1, weights)


def test_halves_are_rounded_away_from_nothing() -> None:
    assert [nearest(n, 2) for n in (-3, -1, 0, 1, 3)] == [-2, -1, 0, 1, 2]


def test_a_kwh_costs_its_price() -> None:
    one_kwh_uj, price = 3_600_000_000_000, scaled(Decimal("0.2873"), 9)
    assert money(one_kwh_uj * price) == Decimal("0.2873")
    assert decimal(one_kwh_uj * price // 2, COST_UNIT, 4) == Decimal("0.1437")


def test_a_price_that_cannot_be_held_is_refused() -> None:
    with pytest.raises(ValueError, match="more than 9 digits"):
        scaled(Decimal("0.1234567891"), 9)


def test_the_smallest_unit_is_the_currency_s() -> None:
    assert [minor_digits(code) for code in ("EUR", "JPY", "KWD")] == [2, 0, 3]
