"""Budgets in joules: what is reserved, what is let in, and that they hold whatever requests cost."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accounting.access.keys import Keyring, Limits
from accounting.store.sums import DAY_US
from proxy.access.grant import Grant
from proxy.errors import TooManyRequests
from tests.proxy.access.gates import (
    MILLION,
    MONDAY_US,
    Clock,
    MakeGate,
    ask,
    known,
    make_gate,
    settled,
    teach,
)


def test_hundreds_at_once_against_a_budget_for_ten_spend_no_more_than_it(gate_of: MakeGate) -> None:
    chance = random.Random(7)
    gate = gate_of()
    each_uj = teach(gate, MILLION)
    budget_uj = 10 * each_uj
    gate.use(
        Keyring(
            version=2,
            keys=gate.keyring.keys,
            secrets=gate.keyring.secrets,
            limits={"project/p": Limits(uj_per_day=budget_uj)},
        )
    )
    scope, holder = gate.scopes["project/p"], known(gate)
    grants: list[Grant] = []
    refusals, refused = 0, set()
    most_over_uj = 0.0
    for _ in range(500):  # they come, end and are settled in any order
        try:
            grants.append(gate.admit(holder, ask(), 32))
        except TooManyRequests as refusal:
            refused.add(refusal.reason)
            refusals += 1
        if grants and chance.random() < 0.3:
            grant, cost = grants.pop(chance.randrange(len(grants))), settled(round(MILLION * chance.random()))
            if chance.random() < 0.5:
                grant.end(cost, None)
                grant.settle(cost, 20_780)
            else:
                grant.settle(cost, 20_780)
                grant.end(cost, None)
        most_over_uj = max(most_over_uj, scope.day_uj + scope.reserved_uj - budget_uj)
    for grant in grants:
        grant.settle(settled(MILLION), 20_780)
        grant.end(settled(MILLION), None)
    assert refusals > 300
    assert refused == {"joules_day"}
    assert most_over_uj <= 0
    assert scope.day_uj <= budget_uj
    assert scope.day_uj > budget_uj - 2 * each_uj  # and nearly all of it could be used
    assert (scope.reserved_uj, scope.parallel) == (0, 0)


def test_a_model_nobody_knows_takes_all_that_is_left_and_goes_alone(gate_of: MakeGate) -> None:
    gate = gate_of(Limits(uj_per_month=100 * MILLION))
    holder = known(gate)
    first = gate.admit(holder, ask(), 32)
    assert first.held_uj == 100 * MILLION
    with pytest.raises(TooManyRequests) as refused:
        gate.admit(holder, ask(), 32)
    assert (refused.value.code, refused.value.again) == ("rate_limit_exceeded", True)
    first.end(settled(3 * MILLION, uncertainty_uj=MILLION), None)
    assert gate.scopes["project/p"].reserved_uj == 100 * MILLION


def test_a_model_nobody_knows_leaves_room_in_a_large_budget(gate_of: MakeGate) -> None:
    """It reserves no more than on the dearest model: others need not wait for the first to be settled."""
    gate = gate_of(Limits(uj_per_month=10**9 * MILLION))
    grants = [gate.admit(known(gate), ask(), 32) for _ in range(20)]
    assert {grant.held_uj for grant in grants} == {275 * MILLION * (32 // 4 + 10)}


def test_what_goes_on_at_its_backend_keeps_what_it_has_reserved(gate_of: MakeGate) -> None:
    gate = gate_of(Limits(uj_per_day=100 * MILLION), first_uj=10 * MILLION)
    holder, scope = known(gate), gate.scopes["project/p"]
    job, left = (gate.admit(holder, ask(), 32) for _ in range(2))
    job.end(None, None)  # a video: the answer only says that it was begun
    left.end(settled(MILLION), None)  # the client left, the server paints on
    assert (scope.reserved_uj, scope.parallel) == (20 * MILLION, 0)
    for grant in (job, left):
        grant.settle(settled(4 * MILLION), 20_780)
    assert (scope.reserved_uj, scope.day_uj) == (0, 8 * MILLION)


def test_what_may_be_expected_of_an_unknown_model_can_be_said(gate_of: MakeGate) -> None:
    gate = gate_of(Limits(uj_per_day=200), first_uj=40)
    holder = known(gate)
    assert [gate.admit(holder, ask(), 32).held_uj for _ in range(2)] == [40, 40]
    with pytest.raises(TooManyRequests):
        gate.admit(holder, ask(), 32)


def test_errors_of_requests_at_one_time_may_double_what_was_expected_and_the_budget_holds(
    gate_of: MakeGate,
) -> None:
    gate = gate_of(Limits(uj_per_day=10 * MILLION), first_uj=MILLION)
    holder, scope = known(gate), gate.scopes["project/p"]
    while True:
        grants: list[Grant] = []
        try:
            while True:
                grants.append(gate.admit(holder, ask(), 32))
        except TooManyRequests:
            pass
        if not grants:
            break
        for grant in grants:
            grant.settle(settled(2 * MILLION, status="aborted"), 20_780)
    assert 9 * MILLION <= scope.day_uj <= 11 * MILLION  # one error: that of the last, which goes alone


def test_a_budget_that_is_gone_says_when_there_is_a_new_one(gate_of: MakeGate, clock: Clock) -> None:
    gate = gate_of(Limits(uj_per_day=2 * MILLION))
    holder = known(gate)
    grant = gate.admit(holder, ask(), 32)
    grant.end(settled(2 * MILLION), None)
    grant.settle(settled(2 * MILLION), 20_780)
    clock.us += 3_600 * MILLION
    with pytest.raises(TooManyRequests) as refused:
        gate.admit(holder, ask(), 32)
    headers = refused.value.headers()
    assert (refused.value.code, headers["retry-after"]) == ("insufficient_quota", str(23 * 3_600))
    assert (headers["x-should-retry"], headers["x-ratelimit-reset-joules"]) == ("false", "23h0m0s")
    clock.us = MONDAY_US + DAY_US
    gate.admit(holder, ask(), 32)
    assert gate.scopes["project/p"].day_uj == 0
    assert gate.scopes["project/p"].month_uj == 2 * MILLION


def test_a_new_month_begins_with_nothing_and_late_corrections_go_to_their_day(
    gate_of: MakeGate, clock: Clock
) -> None:
    gate = gate_of(Limits(uj_per_month=10))
    scope, holder = gate.scopes["project/p"], known(gate)
    scope.spend(20_780, 7)
    clock.us = (20_780 + 8) * DAY_US  # November has 30 days, and this was the 23rd
    gate.admit(holder, ask(method="GET", path="/v1/x", body=b""), 0)
    assert (scope.month_uj, scope.day_uj) == (0, 0)
    scope.spend(20_780, 5)
    assert scope.month_uj == 0


def test_a_provisional_figure_adds_to_what_is_reserved_and_takes_nothing_away(gate_of: MakeGate) -> None:
    """It may say next to nothing of a request that is settled with much: others must not get its room."""
    gate = gate_of(Limits(uj_per_day=4 * MILLION), first_uj=MILLION)
    holder, scope = known(gate), gate.scopes["project/p"]
    low, high = (gate.admit(holder, ask(), 32) for _ in range(2))
    low.end(settled(MILLION // 100, uncertainty_uj=MILLION // 100), None)
    assert scope.reserved_uj == 2 * MILLION
    with pytest.raises(TooManyRequests):
        gate.admit(holder, ask(), 32)
    high.end(settled(2 * MILLION, uncertainty_uj=MILLION // 2), None)
    assert scope.reserved_uj == 3 * MILLION + MILLION // 2
    for grant in (low, high):
        grant.settle(settled(2 * MILLION), 20_780)
    assert (scope.day_uj, scope.reserved_uj) == (4 * MILLION, 0)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), st.integers(1, 40), st.integers(60, 100)),
        st.tuples(st.just("end"), st.integers(0, 50), st.integers(0, 300)),
        st.tuples(st.just("settle"), st.integers(0, 50), st.just(0)),
    ),
    min_size=20,
    max_size=80,
)


@given(steps=STEPS, budget=st.integers(1, 10), slow=st.sampled_from([50, 100, 200]))
def test_a_budget_is_overrun_by_one_error_at_most_in_whatever_order_things_happen(
    steps: list[tuple[str, int, int]], budget: int, slow: int
) -> None:
    """Each costs up to twice what was expected; its provisional figure may be anything."""
    gate = make_gate(Clock())
    each_uj = teach(gate, MILLION)
    key = gate.keyring
    limits = {"project/p": Limits(uj_per_day=budget * each_uj)}
    gate.use(Keyring(version=2, keys=key.keys, secrets=key.secrets, limits=limits))
    scope = gate.scopes["project/p"]
    flying: list[tuple[Grant, int, bool]] = []
    worst_uj = 0
    for what, number, percent in steps:
        if what == "ask":
            try:
                grant = gate.admit(known(gate), ask(b'{"model":"tiny","max_tokens":%d}' % number), 32)
            except TooManyRequests:
                continue
            cost_uj = grant.held_uj * slow * percent // 10_000
            worst_uj = max(worst_uj, cost_uj - grant.held_uj)
            flying.append((grant, cost_uj, False))
        elif flying:
            grant, cost_uj, ended = flying.pop(number % len(flying))
            if what == "settle":
                grant.settle(settled(cost_uj), 20_780)
            elif not ended:
                grant.end(settled(grant.held_uj * percent // 100), None)
            if what == "end":
                flying.append((grant, cost_uj, True))
    for grant, cost_uj, _ in flying:
        grant.settle(settled(cost_uj), 20_780)
    assert scope.day_uj <= budget * each_uj + worst_uj
    assert scope.reserved_uj == 0
