"""Schemathesis asks a running proxy what its OpenAPI document allows, and what it does not."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from proxy import errors
from simulator.process import SimulatedEngine
from tests.proxy.access.keyed import ADMIN_SECRET, asked, guarded, keyed, new_key
from tests.proxy.stack import Stack, error_of

EXAMPLES = 4
"""Drawn for each operation, beside those that try each limit of its schema."""

CONFIG = """
[checks]
# A schema cannot say that an end comes after its start, or that a page is one that was given out.
positive_data_acceptance.enabled = false
# A key that is revoked stays in the list, as what was spent with it does.
use_after_free.enabled = false

# In a query `project_ids=1.5` is a list of one name, whatever it was meant to be.
[[operations]]
include-tag = "usage"
checks.negative_data_rejection.enabled = false

# These read what is asked as `completions` does, which is tried in full.
[[operations]]
include-path-regex = "/usage/(embeddings|images|videos)$"
phases.coverage.enabled = false
checks.negative_data_rejection.enabled = false

# Each answer takes seconds: it serves requests to an engine that is not there, at many rates.
[[operations]]
include-path = "/v1/energy/capacity"
phases.coverage.enabled = false
generation.max-examples = 1

[[operations]]
include-path = "/v1/energy/points/{id}"
parameters = { "path.id" = "%s" }
"""


@pytest.fixture(scope="module")
def stack(simulated: SimulatedEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Two engines, so that models are told by joulegate itself; and requests of two keys in the store."""
    settings = guarded(simulated)
    settings["backends"].append({**settings["backends"][0], "id": "second"})
    with keyed(tmp_path_factory.mktemp("openapi"), settings) as one:
        for project in ("first", "second"):
            _, secret = new_key(one, project=project, limits={"joules_per_day": 1e6})
            one.record(asked(one, secret).headers["x-request-id"])
        one.stored(2)
        yield one


def test_every_route_answers_as_the_document_says_whatever_it_is_asked(stack: Stack, tmp_path: Path) -> None:
    (tmp_path / "schemathesis.toml").write_text(CONFIG % stack.records()[0]["id"])
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", "schemathesis.toml", "run"]
    key = ["-H", f"Authorization: Bearer {ADMIN_SECRET}"]
    options = [f"--max-examples={EXAMPLES}", "--request-timeout=30", "--report-json-path=report.json"]
    done = subprocess.run(
        [*command, f"{stack.proxy.url}/openapi.json", *key, *options],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-10_000:] + done.stderr
    told = json.loads((tmp_path / "report.json").read_text())
    operations = sum(
        len(ways) for ways in httpx.get(f"{stack.proxy.url}/openapi.json").json()["paths"].values()
    )
    assert told["operations"]["tested"] == operations > 30
    assert told["test_cases"]["generated"] > 1_000
    assert told["test_cases"]["errored"] == 0
    assert "GET /v1/energy/points/{id}" not in told["warnings"]["missing_test_data"]


def test_a_mistake_of_ours_is_a_500_in_the_same_shape_that_tells_nothing_of_it() -> None:
    app = FastAPI()
    errors.install(app)

    @app.get("/")
    def broken() -> None:
        raise KeyError("what nobody should see")

    answer = TestClient(app, raise_server_exceptions=False).get("/")
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal_error")
    assert "nobody" not in answer.text


def test_another_method_is_a_405_that_says_which_there_are(stack: Stack) -> None:
    answer = stack.client.put("/v1/energy/requests")
    assert (answer.status_code, error_of(answer)["code"]) == (405, "method_not_allowed")
    assert answer.headers["allow"] == "GET, HEAD"
    assert stack.client.put("/v1/keys/x").headers["allow"] == "DELETE, GET, HEAD, POST"


@pytest.mark.parametrize("limits", [{"joules_per_day": False}, {"requests_per_minute": "10"}])
def test_what_only_looks_like_a_number_is_no_limit(stack: Stack, limits: dict[str, object]) -> None:
    answer = stack.client.put("/v1/limits/project/x", json=limits)
    assert (answer.status_code, error_of(answer)["param"]) == (400, next(iter(limits)))
