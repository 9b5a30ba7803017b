"""A real vLLM-Omni on the CPU behind the proxy: images and videos pass unchanged, each with its own joules.

It computes on the CPU, so the joules are those of a simulated GPU that idles. What is seen here is that every
job gets its record, that the books balance, and how the real server behaves.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from simulator.gpu.board import H100, Board
from simulator.gpu.library import build
from tests.engines.omni_server import OmniServer
from tests.parity.compare import without_energy
from tests.parity.pair import Pair, until
from tests.parity.proxy_process import ProxyProcess

IMAGE = {"prompt": "the time", "size": "64x64", "num_inference_steps": 4, "seed": 1}
JOB_DEADLINE_S = 120.0


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    yield from _behind_proxy(tmp_path_factory.mktemp("images"), "image")


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    yield from _behind_proxy(tmp_path_factory.mktemp("videos"), "video")


def _behind_proxy(directory: Path, kind: Any) -> Iterator[Pair]:
    Board.create(directory / "board", [H100]).close()
    library = build(directory)
    with (
        OmniServer(directory / "omni.log", kind) as omni,
        ProxyProcess(directory / "proxy", omni.url, library, [H100.uuid]) as proxy,
    ):
        yield Pair(omni.url, proxy.url, omni.served)


def ask(url: str, name: str, **changed: object) -> httpx.Response:
    body = {**IMAGE, **changed}
    return httpx.post(
        f"{url}/v1/images/generations", json=body, headers={"x-request-id": name}, timeout=120.0
    )


def create(url: str, name: str, steps: int, **changed: object) -> dict[str, Any]:
    fields: dict[str, object] = {"prompt": "the time", "size": "64x64", "num_frames": 9, "fps": 8}
    fields |= {"num_inference_steps": steps, **changed}
    form = {key: (None, str(value)) for key, value in fields.items()}
    answer = httpx.post(f"{url}/v1/videos", files=form, headers={"x-request-id": name}, timeout=60.0)
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


def in_progress(url: str, job: str) -> bool | None:
    return httpx.get(f"{url}/v1/videos/{job}", timeout=60.0).json()["status"] == "in_progress" or None


def stands(url: str, job: str) -> dict[str, Any] | None:
    """The job's description once it is over."""
    answer = httpx.get(f"{url}/v1/videos/{job}", timeout=60.0)
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told if told["status"] in ("completed", "failed") else None


def test_an_image_differs_from_the_server_s_own_in_its_energy_only(images: Pair) -> None:
    direct, proxied = ask(images.direct_url, "direct"), ask(images.proxied_url, "through")
    assert direct.status_code == proxied.status_code == 200
    assert proxied.headers["x-request-id"] == "through"
    plain = httpx.Response(200, content=without_energy(proxied.content)).json()
    expected = direct.json()
    assert plain["data"] == expected["data"]
    assert list(plain) == list(expected)
    assert {k: v for k, v in plain.items() if k not in ("created", "metrics", "data")} == {
        k: v for k, v in expected.items() if k not in ("created", "metrics", "data")
    }
    assert list(proxied.json()) == [*expected, "energy"]
    record = images.record("through")
    assert (record["status"], record["media"]["kind"], record["media"]["steps"]) == ("ok", "image", 4)


def test_four_images_at_once_each_get_a_record_and_the_books_balance(images: Pair) -> None:
    names = [f"four-{k}" for k in range(4)]
    told: dict[str, float] = {}

    def one(name: str, steps: int) -> None:
        answer = ask(images.proxied_url, name, num_inference_steps=steps, size="128x128")
        told[name] = answer.json()["metrics"]["stage_durations"]["stage_0_gen_ms"]

    threads = [threading.Thread(target=one, args=(name, 20)) for name in names]
    begin_s = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took_ms = (time.monotonic() - begin_s) * 1000
    # The server's own times contain the wait for each other: they overlap.
    assert sum(told.values()) > 1.5 * took_ms
    records = [images.record(name) for name in names]
    assert all(record["status"] == "ok" and record["energy_joules"] > 0 for record in records)
    books = images.books()
    parts = ("requests_joules", "idle_joules", "unobserved_joules", "unmeasured_joules")
    assert sum(books[part] for part in parts) == pytest.approx(books["measured_joules"], abs=1e-5)


def test_a_refusal_passes_unchanged(images: Pair) -> None:
    direct, proxied = (ask(url, "refused", model="nope") for url in (images.direct_url, images.proxied_url))
    assert proxied.status_code in (400, 404)
    if proxied.status_code == direct.status_code:
        assert proxied.json() == direct.json()
    too_many = [ask(url, "many", n=11) for url in (images.direct_url, images.proxied_url)]
    assert too_many[0].status_code == too_many[1].status_code == 400
    assert too_many[0].json() == too_many[1].json()


@pytest.mark.filterwarnings("ignore:The Sora API:DeprecationWarning")
def test_the_stock_client_creates_polls_and_downloads_a_video_with_its_energy(videos: Pair) -> None:
    client = openai.OpenAI(base_url=f"{videos.proxied_url}/v1", api_key="none", max_retries=0)
    video = client.videos.create(
        prompt="the time",
        extra_body={"size": "64x64", "num_frames": 9, "fps": 8, "num_inference_steps": 6},
    )
    done = client.videos.poll(video.id, poll_interval_ms=200)
    assert done.status == "completed"
    content = client.videos.download_content(video.id).read()
    own = httpx.get(f"{videos.direct_url}/v1/videos/{video.id}/content", timeout=60.0).content
    assert content == own
    assert content[4:8] == b"ftyp"

    def told() -> dict[str, Any] | None:
        answer = httpx.get(f"{videos.proxied_url}/v1/videos/{video.id}", timeout=60.0).json()
        return answer if "energy" in answer else None

    energy = until(told, "the energy of a finished job")["energy"]
    assert energy["energy_joules"] > 0
    listed = httpx.get(f"{videos.proxied_url}/v1/videos", timeout=60.0).json()
    assert video.id in [entry["id"] for entry in listed["data"]]


def test_a_video_that_nobody_asks_for_again_is_recorded(videos: Pair) -> None:
    job = create(videos.proxied_url, "unasked", 4)
    record = videos.record("unasked")
    assert (record["status"], record["job"]) == ("ok", job["id"])
    assert (record["media"]["frames"], record["media"]["steps"]) == (9, 4)


def test_deleting_a_running_job_frees_no_compute_and_a_waiting_one_never_runs(videos: Pair) -> None:
    """How vLLM-Omni 0.30 behaves, told to it directly; seen in the CPU time that it takes, as its counts and
    times do not show it."""
    url = videos.direct_url
    large = {"size": "128x128", "num_frames": 33}

    def finish(job: str) -> None:
        until(lambda: stands(url, job), f"the end of {job}", JOB_DEADLINE_S)

    def cpu_s() -> float:
        return videos.gauge("process_cpu_seconds_total")

    begin_s = cpu_s()
    finish(create(url, "whole", 60, **large)["id"])
    whole_s = cpu_s() - begin_s

    begin_s = cpu_s()
    running = create(url, "running", 60, **large)["id"]
    until(lambda: in_progress(url, running), "a job in progress", JOB_DEADLINE_S)
    waiting, last = create(url, "waiting", 60, **large)["id"], create(url, "last", 1)["id"]
    for job in (waiting, running):
        assert httpx.delete(f"{url}/v1/videos/{job}", timeout=60.0).json()["deleted"] is True
        assert httpx.get(f"{url}/v1/videos/{job}", timeout=60.0).status_code == 404
    assert (
        videos.gauge("vllm_omni:num_requests_running") + videos.gauge("vllm_omni:num_requests_waiting") <= 1
    )
    finish(last)
    assert 0.6 * whole_s < cpu_s() - begin_s < 1.6 * whole_s


def test_a_job_deleted_through_the_proxy_is_gone_and_accounted(videos: Pair) -> None:
    job = create(videos.proxied_url, "deleted", 40)["id"]
    answer = httpx.delete(f"{videos.proxied_url}/v1/videos/{job}", timeout=60.0)
    assert answer.json() == {"id": job, "deleted": True, "object": "video.deleted"}
    assert httpx.get(f"{videos.proxied_url}/v1/videos/{job}", timeout=60.0).status_code == 404
    record = videos.record("deleted")
    assert record["job"] == job
