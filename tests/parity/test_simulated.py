"""Through the proxy the simulated engine looks as it does directly; every request leaves its record."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.parity.cases import all_cases
from tests.parity.exchange import Case
from tests.parity.lifecycle import SCENARIOS
from tests.parity.pair import Pair
from tests.parity.stock_client import CALLS

CASES = [case for case in all_cases("simulated") if not case.only_real]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_proxy_is_invisible(pair: Pair, case: Case) -> None:
    direct, differences = pair.play(case)
    assert not differences, "\n".join([f"{case.name} ({direct.status})", *differences])


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_each_request_leaves_one_final_record(pair: Pair, scenario: Callable[[Pair], None]) -> None:
    scenario(pair)


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.__name__)
def test_the_stock_client_works_and_sees_the_energy(pair: Pair, call: Callable[[Pair], None]) -> None:
    call(pair)
