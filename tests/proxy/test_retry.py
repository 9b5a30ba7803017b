"""What may be tried again, and how often at most."""

from __future__ import annotations

import pytest

from proxy.retry import Budget, Fault, is_failure, may_retry
from proxy.settings_routing import Retry

RETRY = Retry(tries=3, ratio=0.25, burst=2)


@pytest.mark.parametrize("failure", [Fault.REFUSED, Fault.CLOSED, 429, 502, 503, 504])
def test_what_cannot_have_done_the_work_may_be_tried_again(failure: Fault | int) -> None:
    assert may_retry(failure, tries=1, answered=False, retry=RETRY)
    assert may_retry(failure, tries=2, answered=False, retry=RETRY)
    assert not may_retry(failure, tries=3, answered=False, retry=RETRY)


@pytest.mark.parametrize("failure", [Fault.REFUSED, Fault.CLOSED, 429, 502, 503, 504])
def test_nothing_is_tried_again_once_the_client_has_a_byte(failure: Fault | int) -> None:
    assert not may_retry(failure, tries=1, answered=True, retry=RETRY)


@pytest.mark.parametrize("failure", [Fault.TIMEOUT, Fault.GARBAGE, 200, 400, 401, 404, 422, 500, 501])
def test_what_may_be_at_work_or_would_fail_again_is_not(failure: Fault | int) -> None:
    assert not may_retry(failure, tries=1, answered=False, retry=RETRY)


def test_a_full_or_picky_engine_is_not_a_failing_one() -> None:
    assert [f for f in (200, 400, 404, 422, 429, 499) if is_failure(f)] == []
    assert all(is_failure(f) for f in (500, 502, 503, 504, *Fault))


def test_the_budget_bounds_retries_to_a_share_of_the_requests() -> None:
    budget = Budget(RETRY)
    spent = 0
    for _ in range(400):
        budget.earn()
        while budget.spend():
            spent += 1
    assert spent == 2 + 399 // 4  # the burst, and a quarter of those that did not find it full
    assert budget.refused == 400


def test_a_quiet_time_saves_up_no_more_than_the_burst() -> None:
    budget = Budget(RETRY)
    for _ in range(1000):
        budget.earn()
    assert [budget.spend() for _ in range(3)] == [True, True, False]


def test_a_smaller_burst_takes_from_what_was_saved() -> None:
    budget = Budget(Retry(burst=10))
    budget.use(Retry(burst=1, ratio=0))
    assert [budget.spend(), budget.spend()] == [True, False]
