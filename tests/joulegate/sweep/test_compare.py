"""A change that is there is found, one that is not is not claimed."""

from __future__ import annotations

import dataclasses
import random

import pytest

from joulegate.sweep.compare import Change, compare
from joulegate.sweep.figures import Second, Seen
from joulegate.sweep.level import Ran
from joulegate.sweep.plan import Plan
from tests.joulegate.test_sweep import level

PLAN = Plan("http://x", "m", "chat")


def ran(seed: int, joules: float = 0.5, ttft_ms: float = 100.0, number: float = 8.0) -> Ran:
    """A minute with noise of 4 %, and 200 requests."""
    pick = random.Random(seed)
    seconds = []
    for at in range(60):
        tokens = 1000 * pick.gauss(1, 0.04)
        energy = joules * tokens * pick.gauss(1, 0.04)
        seconds.append(Second(at, at + 1.0, True, energy, energy, 0, 0, 0, tokens, energy, 8.0))
    values = {field.name: None for field in dataclasses.fields(Seen)}
    seen = [
        Seen(
            **{  # type: ignore[arg-type]
                **values,
                "in_steady": True,
                "joules": joules * pick.lognormvariate(5, 0.5),
                "ttft_ms": ttft_ms * pick.lognormvariate(0, 0.2),
            }
        )
        for _ in range(200)
    ]
    return Ran(level(level=number), seen, seconds)


def changes(old: Ran, new: Ran) -> dict[str, Change]:
    return {change.figure: change for change in compare((PLAN, [old]), (PLAN, [new])).changes}


def test_a_change_that_is_there_is_sure_and_its_interval_holds_it() -> None:
    found = changes(ran(1), ran(2, joules=0.55, ttft_ms=80.0))
    token = found["J/token"]
    assert token.sure
    assert token.interval is not None
    assert token.interval.low < 0.1 < token.interval.high
    assert token.better is False
    assert found["TTFT p50"].better
    assert found["TTFT p50"].sure
    assert found["power"].better is None


def test_what_did_not_change_is_seldom_called_a_change() -> None:
    sure = [change.sure for seed in range(30) for change in changes(ran(seed), ran(100 + seed)).values()]
    assert sum(sure) / len(sure) < 0.12


def test_levels_that_only_one_has_and_settings_that_differ_are_told() -> None:
    other = dataclasses.replace(PLAN, seconds=30.0)
    found = compare((PLAN, [ran(1), ran(1, number=4.0)]), (other, [ran(2), ran(2, number=16.0)]))
    assert (found.only_old, found.only_new) == ([4.0], [16.0])
    assert found.different == [("seconds", "60.0", "30.0")]


def test_energy_that_was_not_measured_is_not_compared() -> None:
    blind = ran(1)
    blind = dataclasses.replace(blind, seconds=[dataclasses.replace(s, power_w=None) for s in blind.seconds])
    found = changes(blind, ran(2))
    assert "power" not in found
    assert found["tokens/s"].change == pytest.approx(0, abs=0.05)
