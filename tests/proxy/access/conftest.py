"""A gate, and the clock it goes by."""

from __future__ import annotations

from functools import partial

import pytest

from tests.proxy.access.gates import Clock, MakeGate, make_gate


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def gate_of(clock: Clock) -> MakeGate:
    return partial(make_gate, clock)
