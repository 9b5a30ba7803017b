"""`machines` makes simulated machines, `watch` meters that are ended with the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from accounting.clock import Clock
from accounting.meters.meter import NvmlMeter
from simulator.gpu.library import build
from tests.accounting.meters.watching import Watched
from tests.simulator.gpu.machine import Machines


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def machines(tmp_path: Path, compiled: Path) -> Iterator[Machines]:
    made = Machines(tmp_path, compiled)
    yield made
    made.close()


@pytest.fixture
def watch() -> Iterator[Callable[..., Watched]]:
    """`watch(library, ...)` starts a meter; what else it is given goes to the meter."""
    watched: list[Watched] = []

    def start(
        library: Path,
        *,
        gpus: list[str] | None = None,
        busy: bool = True,
        check_s: float = 0.0,
        **periods: float,
    ) -> Watched:
        clock = Clock.anchored_now()
        more: dict[str, Any] = dict(periods)
        meter = NvmlMeter(clock, gpus=gpus, library=library, check_s=check_s, **more)
        meter.set_busy(busy)
        watched.append(Watched(meter, clock))
        meter.start()
        return watched[-1]

    yield start
    for one in watched:
        one.meter.close()
