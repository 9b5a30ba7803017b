"""Videos as jobs through a real proxy: with OpenAI's own client, and taken back."""

from __future__ import annotations

from uuid import uuid4

import openai
import pytest

from tests.dialects.diffusion import VIDEO
from tests.proxy.media.studio import BUSY_W, STEP_S, Studio, fields
from tests.proxy.stack import until

pytestmark = pytest.mark.filterwarnings("ignore:The Sora API:DeprecationWarning")


def test_the_openai_client_creates_polls_and_downloads_a_video_with_its_energy(omni: Studio) -> None:
    request_id = str(uuid4())
    made = omni.openai.videos.create_and_poll(poll_interval_ms=100, **fields(20, request_id))
    assert made.status == "completed"
    assert omni.openai.videos.download_content(made.id).read() == VIDEO
    head = omni.stack.client.head(f"/v1/videos/{made.id}/content")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"] == "video/mp4"
    energy = made.to_dict()["energy"]
    assert isinstance(energy, dict)
    assert energy["request_id"] == request_id
    record = omni.record(request_id)
    assert (record["status"], record["job"], record["route"]) == ("ok", made.id, "/v1/videos")
    media = record["media"]
    assert (media["size"], media["steps"], media["frames"], media["fps"]) == ("64x64", 20, 16, 8.0)
    assert media["seconds"] == 2.0
    assert media["joules_per_video_second"] == pytest.approx(record["energy_joules"] / 2)
    assert record["energy_joules"] == pytest.approx(BUSY_W * 20 * STEP_S, rel=0.25)
    # What the client sees of it later is the final figure.
    final = omni.openai.videos.retrieve(made.id).to_dict()["energy"]
    assert isinstance(final, dict)
    assert (final["state"], final["energy_joules"]) == ("final", record["energy_joules"])


def test_an_end_is_known_though_no_client_asks(omni: Studio) -> None:
    request_id = str(uuid4())
    omni.openai.videos.create(**fields(10, request_id))
    record = omni.record(request_id)
    assert record["status"] == "ok"
    assert record["energy_joules"] == pytest.approx(BUSY_W * 10 * STEP_S, rel=0.35)


def test_videos_are_listed_newest_first_with_their_energy(omni: Studio) -> None:
    ids = [omni.openai.videos.create_and_poll(poll_interval_ms=50, **fields(2, f"l{k}")).id for k in range(3)]
    page = omni.openai.videos.list(limit=2)
    assert len(page.data) == 2
    assert page.has_more
    assert all(video.to_dict()["energy"] for video in page.data)
    everything = [video.id for video in omni.openai.videos.list(limit=2)]
    assert set(ids) <= set(everything)
    assert len(everything) == len(set(everything))
    oldest = omni.stack.client.get("/v1/videos", params={"order": "asc", "limit": 1}).json()
    assert oldest["data"][0]["id"] == everything[-1]


def test_content_of_an_unfinished_video_and_unknown_videos_are_not_found(omni: Studio) -> None:
    job = omni.openai.videos.create(**fields(20, str(uuid4())))
    with pytest.raises(openai.NotFoundError, match="still in-progress"):
        omni.openai.videos.download_content(job.id)
    with pytest.raises(openai.NotFoundError, match="not found"):
        omni.openai.videos.retrieve("video_nobody")
    until(lambda: omni.openai.videos.retrieve(job.id).status == "completed" or None, "it is done")


def test_of_deleted_jobs_the_one_that_runs_costs_its_whole_and_the_one_that_waits_nothing(
    omni: Studio,
) -> None:
    running, waiting = str(uuid4()), str(uuid4())
    omni.openai.videos.create_and_poll(poll_interval_ms=50, **fields(40, str(uuid4())))  # how long it takes
    jobs = [omni.openai.videos.create(**fields(40, name)) for name in (running, waiting)]
    until(lambda: omni.server.running or None, "it runs")
    for job in reversed(jobs):
        assert omni.openai.videos.delete(job.id).deleted
    record = omni.record(running)
    assert (record["status"], record["error"]) == ("aborted", "the client deleted it")
    assert record["energy_joules"] == pytest.approx(BUSY_W * 40 * STEP_S, rel=0.25)
    assert (omni.record(waiting)["status"], omni.record(waiting)["energy_uj"]) == ("aborted", 0)
    with pytest.raises(openai.NotFoundError):
        omni.openai.videos.retrieve(jobs[0].id)


def test_a_video_that_is_waited_for_is_accounted_like_an_image(omni: Studio) -> None:
    request_id = str(uuid4())
    form = {"prompt": (None, "x"), "size": (None, "64x64"), "num_frames": (None, "9"), "fps": (None, "8")}
    form["num_inference_steps"] = (None, "6")
    answer = omni.stack.client.post("/v1/videos/sync", files=form, headers={"x-request-id": request_id})
    assert answer.content == VIDEO
    assert answer.headers.get_list("x-request-id") == [request_id]
    record = omni.record(request_id)
    assert (record["status"], record["job"], record["media"]["frames"]) == ("ok", None, 9)
    assert record["energy_joules"] == pytest.approx(BUSY_W * 6 * STEP_S, rel=0.35)


def test_a_job_whose_server_forgot_it_has_failed(omni: Studio) -> None:
    request_id = str(uuid4())
    job = omni.openai.videos.create(**fields(20, request_id))
    until(lambda: omni.server.running or None, "it runs")
    omni.server._jobs.pop(job.id)
    record = omni.record(request_id)
    assert record["status"] == "engine_error"
    assert "does not know it any more" in record["error"]
