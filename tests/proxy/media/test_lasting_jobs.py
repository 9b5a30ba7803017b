"""Video jobs that outlive their proxy, and that find their backend among several."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import pytest

from tests.dialects.diffusion import VIDEO, DiffusionServer
from tests.proxy.media.studio import BUSY_W, STEP_S, fields, studio
from tests.proxy.stack import running, until

pytestmark = pytest.mark.filterwarnings("ignore:The Sora API:DeprecationWarning")


def test_a_job_goes_on_while_the_proxy_is_killed_and_started_again(tmp_path: Path) -> None:
    with studio(tmp_path, "omni", step_s=STEP_S, quiet=False) as one:
        first, second, steps = str(uuid4()), str(uuid4()), 100
        done = one.openai.videos.create_and_poll(poll_interval_ms=50, **fields(4, first))
        before = one.record(first)
        job = one.openai.videos.create(**fields(steps, second))
        until(lambda: one.server.running or None, "it runs")
        until(lambda: one.stack.find(second), "it has a record")
        one.proxy.kill()
        one.proxy.start()
        until(lambda: one.openai.videos.retrieve(job.id).status == "completed" or None, "it is done")
        assert one.openai.videos.download_content(job.id).read() == VIDEO
        record = one.record(second)
        assert (record["status"], record["job"], record["media"]["steps"]) == ("ok", job.id, steps)
        # The counter counts on while nobody reads it: what it shows then is the job's, or, where it was
        # away for long, is in the books as unmeasured, and the job's figure says that it is a lower bound.
        unmeasured_j = one.stack.books()["unmeasured_joules"]
        assert unmeasured_j == 0 or record["unmeasured_seconds"] > 0
        assert record["energy_joules"] + unmeasured_j > BUSY_W * steps * STEP_S * 0.65
        # And what was over before is still found, with its energy.
        old = one.openai.videos.retrieve(done.id).to_dict()["energy"]
        assert isinstance(old, dict)
        assert old["energy_joules"] == before["energy_joules"]
        of_job = until(lambda: [r for r in one.stack.records() if r["job"] == job.id] or None, "it is stored")
        assert len(of_job) == 1
        assert one.stack.books()["balanced"]


def test_jobs_find_their_backend_among_several(tmp_path: Path) -> None:
    with DiffusionServer("omni", step_s=0.01) as a, DiffusionServer("sglang", step_s=0.01) as b:
        backends = [
            {"id": "a", "url": a.url, "models": ["m-a"]},
            {"id": "b", "url": b.url, "models": ["m-b"]},
        ]
        with running(tmp_path, {"backends": backends, "meter": {"source": "none"}}) as stack:
            made = {}
            for model in ("m-a", "m-b"):
                body = {"model": model, "prompt": "x", "num_inference_steps": 2}
                made[model] = stack.post(body, "/v1/videos", model).json()["id"]
            for model, job in made.items():
                until(
                    lambda job=job: stack.client.get(f"/v1/videos/{job}").json()["status"] == "completed",  # type: ignore[misc]
                    "it is done",
                )
                assert stack.client.get(f"/v1/videos/{job}/content").content == VIDEO
                assert stack.record(model)["backend"] == model[-1]
            listed = stack.client.get("/v1/videos").json()["data"]
            assert {video["id"] for video in listed} == set(made.values())
            # A job that was not begun here is asked for everywhere.
            stray = b.add({"num_inference_steps": 1}, job="stray")
            stray.done.wait()
            assert stack.client.get("/v1/videos/stray").json()["status"] == "completed"
            assert stack.client.get("/v1/videos/nobody").status_code == 404
