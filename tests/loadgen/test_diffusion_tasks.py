"""Text to image and to video under Locust: on the simulated server, and with jobs that fail."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from email import message_from_bytes
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from simulator.process import SimulatedEngine

FILE = Path(__file__).parents[2] / "loadgen" / "taskfile.py"


def fields(kind: str, body: bytes) -> dict[str, Any]:
    """Of a JSON body, or of a form: read by the standard library."""
    if kind == "application/json":
        loaded: dict[str, Any] = json.loads(body)
        return loaded
    form = message_from_bytes(b"content-type: " + kind.encode() + b"\r\n\r\n" + body)
    parts = form.get_payload()
    assert isinstance(parts, list)
    found = {}
    for part in parts:
        assert isinstance(part, Message)
        found[str(part.get_param("name", header="content-disposition"))] = part.get_payload()
    return found


class Studio(BaseHTTPRequestHandler):
    """Makes an image at once, and a video at the third time it is asked after; every fifth video fails."""

    protocol_version = "HTTP/1.1"
    asked: list[tuple[str, dict[str, Any]]]
    jobs: dict[str, int]
    fetched: list[str]
    keys: set[str | None]

    def do_POST(self) -> None:
        body = fields(self.headers["content-type"], self.rfile.read(int(self.headers["content-length"])))
        self.asked.append((self.path, body))
        self.keys.add(self.headers["authorization"])
        if self.path == "/v1/images/generations":
            self.tell({"created": 1, "data": [{"b64_json": "AAAA"}], "energy": {"energy_joules": 9.0}})
            return
        name = f"video_{len(self.jobs)}"
        self.jobs[name] = 0
        self.tell({"id": name, "object": "video", "status": "queued"})

    def do_GET(self) -> None:
        name = self.path.split("/")[3]
        if self.path.endswith("/content"):
            self.fetched.append(name)
            self.tell({})
            return
        self.jobs[name] += 1
        status = "in_progress" if self.jobs[name] < 3 else "completed"
        if status == "completed" and int(name.removeprefix("video_")) % 5 == 4:
            status = "failed"
        energy = {"energy": {"energy_joules": 90.0}} if status == "completed" else {}
        self.tell({"id": name, "object": "video", "status": status, "error": None, **energy})

    def tell(self, document: dict[str, Any]) -> None:
        data = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@pytest.fixture
def studio() -> Iterator[tuple[str, type[Studio]]]:
    kind = type("Own", (Studio,), {"asked": [], "jobs": {}, "fetched": [], "keys": set()})
    with ThreadingHTTPServer(("127.0.0.1", 0), kind) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", kind
        server.shutdown()
        thread.join()


def test_images_and_videos_are_made_waited_for_and_fetched(
    studio: tuple[str, type[Studio]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    url, seen = studio
    command = [sys.executable, "-m", "locust", "-f", str(FILE), "--headless", "--host", url, "--model", "m"]
    command += ["--rows", str(tmp_path), "--send-s", "4", "-s", "20s", "-u", "4", "-r", "4", "--steps", "7"]
    ran = subprocess.run(
        [*command, "TextToImage", "TextToVideo"], capture_output=True, text=True, timeout=60, check=False
    )
    rows = [json.loads(line) for line in (tmp_path / "requests-0.jsonl").read_text().splitlines()]
    images = [row for row in rows if row["task"] == "text-to-image"]
    videos = [row for row in rows if row["task"] == "text-to-video"]
    assert {row["status"] for row in images} == {"ok"}, ran.stdout + ran.stderr
    assert {row["joules"] for row in images} == {9.0}
    assert len(videos) == len(seen.jobs) > 5
    failed = [row for row in videos if row["status"] == "failed"]
    assert len(failed) == len(videos) // 5
    assert all("failed" in row["error"] for row in failed)
    assert {row["joules"] for row in videos if row["status"] == "ok"} == {90.0}
    assert len(seen.fetched) == len(videos) - len(failed)
    assert {row["first_at"] for row in rows} == {None}
    assert {int(body["num_inference_steps"]) for _, body in seen.asked} == {7}
    for path, body in seen.asked:
        size = "832x480" if path == "/v1/videos" else "1024x1024"
        assert (body["model"], body["size"]) == ("m", size)
    assert seen.keys == {"Bearer secret"}


@pytest.mark.parametrize(("model", "name"), [("tiny-image", "TextToImage"), ("tiny-video", "TextToVideo")])
def test_the_simulated_server_makes_what_is_asked(model: str, name: str, tmp_path: Path) -> None:
    with SimulatedEngine(tmp_path / "engine", model=model, library=False) as engine:
        command = [sys.executable, "-m", "locust", "-f", str(FILE), "--headless", "--host", engine.url]
        command += [
            "--model",
            model,
            "--rows",
            str(tmp_path),
            "--send-s",
            "2",
            "-s",
            "30s",
            "-u",
            "2",
            "-r",
            "2",
        ]
        command += ["--output", "128x64", "--video-seconds", "1", "--steps", "2", name]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        truth = httpx.get(f"{engine.url}/simulator/truth").json()["data"]
    rows = [json.loads(line) for line in (tmp_path / "requests-0.jsonl").read_text().splitlines()]
    assert {row["status"] for row in rows} == {"ok"}
    assert {row["id"] for row in rows} == {account["request_id"] for account in truth}
