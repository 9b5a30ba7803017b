"""One vLLM-Omni with its proxy, for all tests that leave it as it is: they start slowly."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.proxy.media.studio import STEP_S, Studio, studio


@pytest.fixture(scope="session")
def omni(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    with studio(tmp_path_factory.mktemp("omni"), "omni", step_s=STEP_S) as one:
        yield one
