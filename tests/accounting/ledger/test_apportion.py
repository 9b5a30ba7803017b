from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accounting.ledger.apportion import apportion

weights = st.lists(st.integers(0, 2**70), min_size=1, max_size=50).filter(any)


@settings(deadline=None)
@given(st.integers(0, 2**62), weights)
def test_parts_sum_to_the_whole_and_are_within_one_of_their_share(total: int, weights: list[int]) -> None:
    parts = apportion(total, weights).tolist()
    assert sum(parts) == total
    for part, weight in zip(parts, weights, strict=True):
        assert abs(part - Fraction(total * weight, sum(weights))) < 1
        assert part >= 0
        assert weight > 0 or part == 0


def test_equal_weights_get_the_same_when_it_divides() -> None:
    assert apportion(12, [7, 7, 7]).tolist() == [4, 4, 4]


@pytest.mark.parametrize("nothing", [[], [0], [0, 0]])
def test_no_weight_at_all_is_refused(nothing: list[int]) -> None:
    with pytest.raises(ValueError, match="above 0"):
        apportion(5, nothing)
