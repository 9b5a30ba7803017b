"""`machines` makes simulated machines; the library is compiled once per run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from simulator.gpu.library import build
from tests.simulator.gpu.machine import Machines


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def machines(tmp_path: Path, compiled: Path) -> Iterator[Machines]:
    made = Machines(tmp_path, compiled)
    yield made
    made.close()
