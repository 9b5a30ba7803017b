"""Fixtures that several rooms share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import settings

from simulator.process import SimulatedEngine

# How long an example takes says nothing here: the machine may be busy.
settings.register_profile("joulegate", deadline=None)
settings.load_profile("joulegate")


@pytest.fixture(scope="session")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimulatedEngine]:
    """A simulated engine with a model `tiny` on a simulated H100; takes orders for faults."""
    with SimulatedEngine(tmp_path_factory.mktemp("simulated"), model="tiny", allow_faults=True) as engine:
        yield engine
