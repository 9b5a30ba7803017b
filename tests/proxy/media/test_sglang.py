"""SGLang's ways: images that it keeps, and jobs that it works on though they were deleted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.dialects.diffusion import VIDEO
from tests.proxy.media.studio import BUSY_W, Studio, studio
from tests.proxy.stack import until

STEP_S = 0.05


@pytest.fixture(scope="module")
def sglang(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    with studio(tmp_path_factory.mktemp("sglang"), "sglang", step_s=STEP_S, quiet=False) as one:
        yield one


def test_an_image_that_the_server_keeps_can_be_fetched(sglang: Studio) -> None:
    body = {"model": "tiny-sglang", "prompt": "x", "size": "64x64", "num_inference_steps": 4}
    answer = sglang.stack.post(body, "/v1/images/generations", "kept").json()
    assert answer["energy"]["request_id"] == "kept"
    fetched = sglang.stack.client.get(answer["data"][0]["url"])
    assert (fetched.status_code, fetched.headers["content-type"]) == (200, "image/jpeg")
    assert fetched.content.startswith(b"\x89PNG")
    assert sglang.stack.client.get("/v1/images/nobody/content").status_code == 404


def test_it_works_on_to_the_end_of_what_was_deleted(sglang: Studio) -> None:
    body = {"model": "tiny-sglang", "prompt": "x", "size": "64x64", "num_frames": 9, "fps": 8}
    body["num_inference_steps"] = 30
    sglang.stack.post(body, "/v1/videos", "first")
    assert sglang.record("first")["status"] == "ok"
    job = sglang.stack.post(body, "/v1/videos", "deleted").json()
    until(lambda: sglang.server.running or None, "it runs")
    gone = sglang.stack.client.delete(f"/v1/videos/{job['id']}").json()
    assert gone["status"] == "deleted"
    record = sglang.record("deleted")
    assert record["status"] == "aborted"
    assert record["energy_joules"] == pytest.approx(BUSY_W * 30 * STEP_S, rel=0.4)


def test_jobs_that_a_worker_began_are_looked_after_by_the_main_process(tmp_path: Path) -> None:
    with studio(tmp_path, "sglang", step_s=0.01, quiet=False, server={"port": 0, "workers": 2}) as one:
        names = [f"job-{k}" for k in range(8)]  # new connections: the kernel gives some to the worker
        jobs = {}
        for name in names:
            with httpx.Client(base_url=one.proxy.url) as client:
                body = {"model": "tiny-sglang", "prompt": "x", "num_inference_steps": 2}
                answer = client.post("/v1/videos", json=body, headers={"x-request-id": name})
                jobs[name] = answer.json()["id"]
        for name, job in jobs.items():
            with httpx.Client(base_url=one.proxy.url) as client:
                until(lambda c=client, j=job: c.get(f"/v1/videos/{j}").json().get("energy"), "its energy")  # type: ignore[misc]
                assert client.get(f"/v1/videos/{job}/content").content == VIDEO
            assert one.record(name)["job"] == job
