"""The circuit of a backend: ejected by failures, let back by a trial. Times are given, so nothing waits."""

from __future__ import annotations

from proxy.health import Passive
from proxy.settings_routing import Health

SETTINGS = Health(failures=3, failure_rate=0.5, rate_over=10, ejected_s=5.0, ejected_at_most_s=30.0)


def fail(passive: Passive, times: int, now_s: float = 0.0) -> bool:
    return [passive.record(False, now_s) for _ in range(times)][-1]


def trial(passive: Passive, now_s: float, ok: bool) -> None:
    assert passive.may_take(now_s)
    passive.taken(now_s)
    passive.record(ok, now_s)


def test_failures_in_a_row_eject_and_one_success_between_them_does_not() -> None:
    passive = Passive(SETTINGS)
    assert not fail(passive, 2)
    passive.record(True, 0.0)
    assert not fail(passive, 2)
    assert fail(passive, 1)
    assert (passive.circuit(0.0), passive.may_take(0.0)) == ("open", False)


def test_a_share_of_failures_ejects_though_they_are_not_in_a_row() -> None:
    passive = Passive(SETTINGS)
    said = [passive.record(ok, 0.0) for ok in [True, False] * 5]
    assert said == [False] * 9 + [True]


def test_what_says_nothing_of_the_engine_changes_nothing() -> None:
    passive = Passive(SETTINGS)
    fail(passive, 2)
    passive.record(None, 0.0)
    assert passive.circuit(0.0) == "closed"
    assert fail(passive, 1)


def test_after_its_time_out_one_trial_at_a_time_is_let_through() -> None:
    passive = Passive(SETTINGS)
    fail(passive, 3)
    assert not passive.may_take(4.9)
    assert (passive.circuit(5.0), passive.may_take(5.0)) == ("half_open", True)
    passive.taken(5.0)
    assert not passive.may_take(5.0)


def test_a_trial_that_goes_well_brings_it_back() -> None:
    passive = Passive(SETTINGS)
    fail(passive, 3)
    trial(passive, 5.0, ok=True)
    assert passive.circuit(5.0) == "closed"
    assert not fail(passive, 2, 5.0)  # the count begins anew


def test_each_failed_trial_doubles_the_time_out_up_to_a_bound() -> None:
    passive, now_s, outs = Passive(SETTINGS), 0.0, []
    fail(passive, 3)
    for _ in range(5):
        assert passive.until_s is not None
        outs.append(passive.until_s - now_s)
        now_s = passive.until_s
        trial(passive, now_s, ok=False)
    assert outs == [5.0, 10.0, 20.0, 30.0, 30.0]
    assert passive.ejections == 6


def test_after_a_recovery_the_time_out_is_short_again() -> None:
    passive = Passive(SETTINGS)
    fail(passive, 3)
    trial(passive, 5.0, ok=False)
    trial(passive, 15.0, ok=True)
    fail(passive, 3, 100.0)
    assert passive.until_s == 105.0


def test_requests_of_before_the_ejection_that_fail_late_do_not_prolong_it() -> None:
    passive = Passive(SETTINGS)
    fail(passive, 3)
    fail(passive, 10, 1.0)
    assert (passive.until_s, passive.ejections) == (5.0, 1)


def test_a_trial_whose_client_left_leaves_room_for_the_next() -> None:
    passive = Passive(SETTINGS)
    fail(passive, 3)
    passive.taken(5.0)
    passive.record(None, 5.1)
    assert passive.may_take(5.1)
