"""Through the proxy the simulated engine looks as it does directly; every request leaves its record."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from simulator.gpu.board import H100
from simulator.process import SimulatedEngine
from tests.parity.cases import all_cases
from tests.parity.exchange import Case
from tests.parity.lifecycle import SCENARIOS
from tests.parity.pair import Pair
from tests.parity.proxy_process import ProxyProcess
from tests.parity.stock_client import CALLS

CASES = [case for case in all_cases("simulated") if not case.only_real]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_proxy_is_invisible(pair: Pair, case: Case) -> None:
    direct, differences = pair.play(case)
    assert not differences, "\n".join([f"{case.name} ({direct.status})", *differences])


@pytest.mark.parametrize("name", ["chat: three choices, streamed", "chat stream: usage refused"])
def test_a_proxy_is_invisible_from_its_first_request_on(
    engine: SimulatedEngine, tmp_path: Path, name: str
) -> None:
    """It cannot have learnt anything of the engine from earlier answers."""
    assert engine.library is not None
    (case,) = (case for case in CASES if case.name == name)
    with ProxyProcess(tmp_path, engine.url, engine.library, [H100.uuid]) as proxy:
        _, differences = Pair(engine.url, proxy.url, "simulated").play(case)
    assert not differences, "\n".join(differences)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_each_request_leaves_one_final_record(pair: Pair, scenario: Callable[[Pair], None]) -> None:
    scenario(pair)


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.__name__)
def test_the_stock_client_works_and_sees_the_energy(pair: Pair, call: Callable[[Pair], None]) -> None:
    call(pair)
