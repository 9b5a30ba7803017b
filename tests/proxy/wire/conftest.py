"""A proxy with little patience in front of an engine that the test plays by hand."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.proxy.hand_engine import HandEngine
from tests.proxy.stack import Stack, running

HEAD_KB = 8.0
BODY_MB = 64.0
PATIENCE_S = 0.5


@pytest.fixture(scope="module")
def engine() -> Iterator[HandEngine]:
    with HandEngine() as one:
        yield one


@pytest.fixture(scope="module")
def proxy(engine: HandEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Patient."""
    settings = {
        "backends": [{"id": "hand", "url": engine.url, "models": ["raw"]}],
        "meter": {"source": "none"},
        "engine_metrics": {"enabled": False},
        "server": {"port": 0, "max_head_kb": HEAD_KB, "max_body_mb": BODY_MB},
    }
    with running(tmp_path_factory.mktemp("hand"), settings) as stack:
        yield stack


@pytest.fixture(scope="module")
def hurried(engine: HandEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Impatient with clients."""
    settings = {
        "backends": [{"id": "hand", "url": engine.url, "models": ["raw"]}],
        "meter": {"source": "none"},
        "engine_metrics": {"enabled": False},
        "server": {"port": 0, "head_s": PATIENCE_S, "body_idle_s": PATIENCE_S, "keep_alive_s": PATIENCE_S},
        "timeouts": {"idle_s": PATIENCE_S, "total_s": 4 * PATIENCE_S},
    }
    with running(tmp_path_factory.mktemp("hurried"), settings) as stack:
        yield stack
