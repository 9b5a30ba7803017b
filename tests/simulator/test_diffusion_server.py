"""The diffusion server over HTTP: vLLM-Omni's shapes and habits, and joules that add up."""

from __future__ import annotations

import base64
import itertools
import struct
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from simulator.process import SimulatedEngine
from tests.simulator.conftest import eventually

SMALL = {"prompt": "a red fox", "size": "256x256", "num_inference_steps": 10}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    yield from _serve(tmp_path_factory.mktemp("images"), "tiny-image")


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    yield from _serve(tmp_path_factory.mktemp("videos"), "tiny-video")


def _serve(directory: Path, model: str) -> Iterator[httpx.Client]:
    with (
        SimulatedEngine(directory, model=model, library=False) as engine,
        httpx.Client(base_url=engine.url, timeout=30.0) as client,
    ):
        yield client


def accounts(client: httpx.Client, request_id: str | None = None) -> list[dict[str, Any]]:
    query = {} if request_id is None else {"request_id": request_id}
    found: list[dict[str, Any]] = client.get("/simulator/truth", params=query).json()["data"]
    return found


def account(client: httpx.Client, request_id: str) -> dict[str, Any]:
    (found,) = accounts(client, request_id)
    return found


def gauges(client: httpx.Client) -> tuple[float, float]:
    lines = client.get("/metrics").text.splitlines()
    told = {line.split("{")[0]: float(line.rsplit(" ", 1)[1]) for line in lines if "{" in line}
    return told["vllm_omni:num_requests_running"], told["vllm_omni:num_requests_waiting"]


def create(client: httpx.Client, name: str, steps: int) -> str:
    fields = {"prompt": "a fox", "size": "64x64", "num_frames": "9", "fps": "8", "num_inference_steps": steps}
    form = {key: (None, str(value)) for key, value in fields.items()}
    answer = client.post("/v1/videos", files=form, headers={"x-request-id": name})
    assert answer.status_code == 200
    return str(answer.json()["id"])


def test_an_image_is_a_png_of_the_size_asked_for(images: httpx.Client) -> None:
    answer = images.post("/v1/images/generations", json=SMALL, headers={"x-request-id": "one"})
    body = answer.json()
    assert list(body) == ["created", "data", "output_format", "size", "cot_output", "metrics"]
    assert list(body["metrics"]["stage_durations"]) == ["queue_wait_ms", "stage_0_gen_ms"]
    assert (body["size"], answer.headers["x-request-id"]) == ("256x256", "one")
    picture = base64.b64decode(body["data"][0]["b64_json"])
    assert picture.startswith(b"\x89PNG\r\n\x1a\n")
    assert struct.unpack(">II", picture[16:24]) == (256, 256)
    compressed = picture[41 : picture.rindex(b"IEND") - 8]
    assert len(zlib.decompress(compressed)) == 256 * (1 + 3 * 256)


def test_the_stock_client_makes_several_images(images: httpx.Client) -> None:
    client = openai.OpenAI(base_url=f"{images.base_url}/v1", api_key="none", max_retries=0)
    answer = client.images.generate(model="tiny-image", prompt="fox", n=3, size="256x256")
    assert answer.data is not None
    assert len(answer.data) == 3


def test_images_of_a_serial_server_take_turns_though_their_times_overlap(images: httpx.Client) -> None:
    told: dict[str, float] = {}

    def ask(name: str, steps: int) -> None:
        body = {**SMALL, "num_inference_steps": steps}
        answer = images.post("/v1/images/generations", json=body, headers={"x-request-id": name})
        told[name] = answer.json()["metrics"]["stage_durations"]["stage_0_gen_ms"]

    asked = {f"turn-{k}": 10 * (k + 1) for k in range(4)}
    threads = [threading.Thread(target=ask, args=item) for item in asked.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = [account(images, name) for name in asked]
    ran = sorted((one["scheduled_us"], one["finished_us"]) for one in found)
    assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(ran))
    worked_ms = sum(end - begin for begin, end in ran) / 1000
    assert sum(told.values()) > 1.5 * worked_ms
    per_step = [one["energy_uj"] / steps for one, steps in zip(found, asked.values(), strict=True)]
    assert max(per_step) < 1.6 * min(per_step)


def test_energies_of_requests_and_idle_make_up_the_curve(images: httpx.Client) -> None:
    images.post("/v1/images/generations", json=SMALL)
    truth = images.get("/simulator/truth").json()
    assert truth["requests_uj"] + truth["idle_uj"] == truth["curve_uj"]
    assert truth["requests_uj"] == sum(one["energy_uj"] for one in truth["data"])


def test_an_image_that_nobody_waits_for_is_worked_off_if_it_runs_and_dropped_if_it_waits(
    images: httpx.Client,
) -> None:
    def leave(name: str, within_s: float) -> None:
        body = {**SMALL, "num_inference_steps": 60}
        with pytest.raises(httpx.ReadTimeout):
            images.post("/v1/images/generations", json=body, headers={"x-request-id": name}, timeout=within_s)

    running = threading.Thread(target=leave, args=("runs", 0.3))
    running.start()
    eventually(lambda: accounts(images, "runs"))
    leave("waits", 0.1)
    running.join()
    assert eventually(lambda: account(images, "waits")["state"] == "dropped")
    assert account(images, "waits")["energy_uj"] == 0
    alone = images.post(
        "/v1/images/generations",
        json={**SMALL, "num_inference_steps": 60},
        headers={"x-request-id": "alone"},
    )
    assert alone.status_code == 200
    left, whole = account(images, "runs"), account(images, "alone")
    assert left["state"] == "aborted"
    assert left["energy_uj"] == pytest.approx(whole["energy_uj"], rel=0.05)


def test_refusals_are_worded_as_vllm_omni_words_them(images: httpx.Client) -> None:
    def refused(**changed: object) -> str:
        answer = images.post("/v1/images/generations", json={**SMALL, **changed})
        assert answer.status_code == 400
        return str(answer.json()["error"]["message"])

    assert refused(model="no") == "Model mismatch: request specifies 'no' but server is running 'tiny-image'."
    assert "WIDTHxHEIGHT" in refused(size="12")
    assert "'b64_json' or 'file'" in refused(response_format="url")
    assert "1 validation error" in refused(n=11)
    assert images.post("/v1/images/variations", files={"image": b"x"}).status_code == 404


def test_an_edit_comes_as_a_form_with_a_file(images: httpx.Client) -> None:
    form = {"prompt": "bluer", "size": "64x64", "num_inference_steps": "4", "n": "2"}
    files = {"image": ("a.png", b"\x89PNG\r\n\x1a\nnot really", "image/png")}
    answer = images.post("/v1/images/edits", data=form, files=files, headers={"x-request-id": "edit"})
    assert [len(answer.json()["data"]), answer.json()["size"]] == [2, "64x64"]
    told = account(images, "edit")
    assert (told["steps"], told["outputs"], told["width"]) == (4, 2, 64)


@pytest.mark.filterwarnings("ignore:The Sora API:DeprecationWarning")
def test_the_stock_client_creates_polls_and_downloads_a_video(videos: httpx.Client) -> None:
    client = openai.OpenAI(base_url=f"{videos.base_url}/v1", api_key="none", max_retries=0)
    video = client.videos.create(
        prompt="a fox",
        extra_body={"num_frames": 9, "num_inference_steps": 5, "fps": 8, "size": "64x64"},
    )
    assert video.status == "queued"
    done = client.videos.poll(video.id, poll_interval_ms=50)
    assert (done.status, done.progress) == ("completed", 100)
    content = client.videos.download_content(video.id).read()
    assert content[4:8] == b"ftyp"
    assert content.index(b"moov") < content.index(b"mdat")
    assert client.videos.delete(video.id).deleted
    assert videos.get(f"/v1/videos/{video.id}").status_code == 404


def test_a_video_job_is_queued_then_in_progress_then_completed(videos: httpx.Client) -> None:
    name = create(videos, "job", 30)
    path = f"/v1/videos/{name}"
    assert eventually(lambda: videos.get(path).json()["status"] == "in_progress")
    early = videos.get(f"{path}/content")
    assert (early.status_code, early.json()["error"]["message"]) == (404, "Generation is still in-progress")
    assert eventually(lambda: videos.get(path).json()["status"] == "completed")
    told = videos.get(path).json()
    assert (told["num_frames"], told["fps"], told["duration_s"]) == (9, 8.0, 1.125)
    assert videos.get("/v1/videos", params={"limit": 1}).json()["data"][0]["id"] == name
    assert account(videos, "job")["job"] == name


def test_a_deleted_video_goes_on_if_it_runs_and_is_dropped_if_it_waits(videos: httpx.Client) -> None:
    runs = create(videos, "deleted-running", 60)
    eventually(lambda: videos.get(f"/v1/videos/{runs}").json()["status"] == "in_progress")
    waits = create(videos, "deleted-waiting", 60)
    for name in (waits, runs):
        answer = videos.delete(f"/v1/videos/{name}").json()
        assert answer == {"id": name, "deleted": True, "object": "video.deleted"}
        assert videos.get(f"/v1/videos/{name}").status_code == 404
    assert gauges(videos) == (0, 0)
    last = create(videos, "after", 2)
    assert eventually(lambda: videos.get(f"/v1/videos/{last}").json()["status"] == "completed")
    ran, after = account(videos, "deleted-running"), account(videos, "after")
    assert ran["state"] == "aborted"
    assert ran["finished_us"] <= after["scheduled_us"]
    assert ran["energy_uj"] > 5 * after["energy_uj"]
    assert account(videos, "deleted-waiting")["energy_uj"] == 0


def test_a_video_at_once_has_its_figures_in_the_head(videos: httpx.Client) -> None:
    form = {"prompt": (None, "fox"), "size": (None, "64x64"), "num_frames": (None, "5")}
    answer = videos.post("/v1/videos/sync", files=form, headers={"x-request-id": "sync"})
    assert answer.headers["content-type"] == "video/mp4"
    assert answer.headers.get_list("x-request-id")[-1] == "sync"
    assert answer.headers.get_list("x-request-id")[0].startswith("video_sync-")
    assert float(answer.headers["x-inference-time-s"]) > 0
