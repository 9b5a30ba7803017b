"""Proxies with different settings, each started once for the tests of this room."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from simulator.process import SimulatedEngine
from tests.proxy.raw_engine import RawEngine
from tests.proxy.stack import Stack, metered, running

MAX_BODY_MB = 0.2
SHORT_S = 1.5
"""The timeouts of `raw_stack`."""


@pytest.fixture(scope="session")
def stack(simulated: SimulatedEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """One simulated engine, metered; bodies up to `MAX_BODY_MB`."""
    settings = metered(simulated, server={"port": 0, "max_body_mb": MAX_BODY_MB})
    with running(tmp_path_factory.mktemp("stack"), settings) as one:
        yield one


@pytest.fixture(scope="session")
def raw() -> Iterator[RawEngine]:
    with RawEngine() as engine:
        yield engine


@pytest.fixture(scope="session")
def raw_stack(
    raw: RawEngine, simulated: SimulatedEngine, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    """A scripted engine that counts as running on the simulated GPU; little patience."""
    settings = metered(simulated, timeouts={"first_byte_s": SHORT_S, "idle_s": SHORT_S})
    settings["backends"] = [{"id": "raw", "url": raw.url}]
    with running(tmp_path_factory.mktemp("raw"), settings) as one:
        yield one


@pytest.fixture(scope="session")
def two(simulated: SimulatedEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A simulated engine and one that is away (its models are named); not metered; energy in all streams."""
    away = {"id": "away", "url": "http://127.0.0.1:1", "models": ["lost"]}
    settings = {
        "backends": [{"id": "engine", "url": simulated.url}, away],
        "meter": {"source": "none"},
        "energy": {"in_streams": "always"},
    }
    with running(tmp_path_factory.mktemp("two"), settings) as one:
        yield one


@pytest.fixture(scope="session")
def never(simulated: SimulatedEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Not metered; no energy in streams, which the environment says over the file."""
    settings = {
        "backends": [{"id": "engine", "url": simulated.url}],
        "meter": {"source": "none"},
        "energy": {"in_streams": "always", "in_answers": False},
    }
    environment = {**os.environ, "JOULEGATE_ENERGY__IN_STREAMS": "never"}
    with running(tmp_path_factory.mktemp("never"), settings, environment=environment) as one:
        yield one
