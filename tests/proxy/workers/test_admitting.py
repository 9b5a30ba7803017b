"""How a worker's requests are let in, and how refusals reach it; each part by itself."""

from __future__ import annotations

import msgspec
import pytest

from accounting.access.keys import Limits, digest
from proxy.access import errors
from proxy.access.gate import Gate
from proxy.errors import ApiError
from proxy.workers.admitting import Admitting
from proxy.workers.messages import Admitted, Enter, Known, Left, Refused
from proxy.workers.refusing import error_of, told
from tests.proxy.access.gates import CHAT, MILLION, SECRET, Clock, make_gate

LIMITS = Limits(uj_per_day=1_000 * MILLION, tokens_per_minute=1_000, parallel_requests=3)


def a_gate() -> Gate:
    return make_gate(Clock(), LIMITS, first_uj=50 * MILLION)


def enter(number: int, *, accounted: bool = True) -> Enter:
    return Enter(
        number=number,
        digest=digest(SECRET),
        path=CHAT,
        model="tiny",
        accounted=accounted,
        sequences=1,
        max_tokens=10,
        media=None,
        body_bytes=40,
        tunnel=False,
    )


def held(gate: Gate) -> tuple[int, int, float]:
    """Requests at a time, joules, and tokens that are left."""
    scope = gate.scopes["project/p"]
    assert scope.tokens is not None
    return scope.parallel, scope.reserved_uj // MILLION, scope.tokens.level(gate.now_us())


def test_what_was_let_in_and_not_begun_is_free_once_its_worker_is_gone() -> None:
    gate = a_gate()
    free = held(gate)
    one, other = Admitting(gate), Admitting(gate)
    assert [type(one.enter(enter(n))) for n in (1, 2)] == [Admitted, Admitted]
    assert isinstance(other.enter(enter(1)), Admitted)
    assert held(gate)[:2] == (3, 150)
    refused = other.enter(enter(2))
    assert isinstance(refused, Refused)
    assert (refused.status, refused.key and refused.key.id) == (429, "key_1")
    one.lost()
    assert held(gate)[:2] == (1, 50)
    other.left(Left(1))
    assert held(gate) == free


def test_a_request_without_an_account_holds_no_joules_and_is_over_when_the_worker_says_so() -> None:
    gate = a_gate()
    free = held(gate)
    admitting = Admitting(gate)
    assert isinstance(admitting.enter(enter(1, accounted=False)), Admitted)
    assert held(gate) == (1, *free[1:])
    admitting.left(Left(1))
    assert held(gate) == free


def test_a_key_that_is_revoked_between_two_questions_is_refused() -> None:
    gate = a_gate()
    admitting = Admitting(gate)
    assert isinstance(admitting.knock(enter(1)), Known)
    ring = gate.keyring
    gate.use(msgspec.structs.replace(ring, keys=[msgspec.structs.replace(ring.keys[0], revoked_us=1)]))
    refused = admitting.enter(enter(2))
    assert isinstance(refused, Refused)
    assert error_of(refused).body() == errors.unknown_key().body()


@pytest.mark.parametrize(
    "error",
    [
        errors.no_key(),
        errors.unknown_key(),
        errors.wrong_model(None),
        errors.wrong_model("m"),
        errors.not_for_admin(),
        errors.no_tunnel(),
        errors.too_many("tokens", "key/k", 10, 3.2, " More."),
        errors.too_many("parallel", "key/k", 10, 1.0),
        errors.used_up("joules_month", "team/t", 0.5, 86_400.0, " All."),
    ],
)
def test_a_refusal_is_the_same_on_the_other_side(error: ApiError) -> None:
    if hasattr(error, "more"):
        error.more = {b"x-ratelimit-limit-joules": b"5"}
    sent = msgspec.msgpack.encode(told(7, None, error))
    there = error_of(msgspec.msgpack.decode(sent, type=Refused))
    assert type(there) is type(error)
    assert (there.status, there.body(), there.headers()) == (error.status, error.body(), error.headers())
    assert getattr(there, "reason", None) == getattr(error, "reason", None)
