"""Diffusion servers as they were seen to behave: vLLM-Omni 0.30, SGLang 0.5.23, xDiT 0.7.

Bodies have the fields, in the order, that the real ones answered with. Work is done in turn by one thread,
`step_s` for each denoising step, and says on the simulated GPU how busy it is; a client that leaves changes
nothing of it.
"""

from __future__ import annotations

import base64
import json
import queue
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal, Self
from uuid import uuid4

Kind = Literal["omni", "sglang", "xdit"]
Draws = Callable[[float], None]
"""Told for how many seconds the GPU works from now on."""

IMAGE = base64.b64encode(b"\x89PNG" + bytes(range(256)) * 3000).decode()
VIDEO = b"\x00\x00\x00 ftypisom" + bytes(range(256)) * 400
IN_PROGRESS = "Generation is still in-progress"


@dataclass
class Work:
    """Something to make; `done` once it is made, or taken back."""

    steps: int
    fields: dict[str, Any]
    id: str = ""
    created_s: float = 0.0
    status: str = "queued"
    progress: int = 0
    seconds: float | None = None
    completed_s: float | None = None
    cancelled: bool = False
    done: threading.Event = field(default_factory=threading.Event)


class DiffusionServer:
    """Use as a context manager; started again, it has the same port. `draws` is told of the work."""

    def __init__(
        self, kind: Kind, draws: Draws | None = None, *, step_s: float = 0.05, port: int = 0
    ) -> None:
        self.kind, self.step_s = kind, step_s
        self._draws = draws or (lambda _: None)
        self._work: queue.Queue[Work | None] = queue.Queue()
        self._jobs: dict[str, Work] = {}
        self.running, self.waiting = 0, 0
        self.served: list[Work] = []
        self._port = port

    def __enter__(self) -> Self:
        outer = self

        class Handler(_Handler):
            @property
            def server_of(self) -> DiffusionServer:
                return outer

        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), Handler)
        self._server.daemon_threads = True
        self._port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self._port}"
        self._worker = threading.Thread(target=self._run, daemon=True)
        self._worker.start()
        self._serving = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._serving.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._work.put(None)
        self._worker.join()

    def add(self, fields: dict[str, Any], *, job: str = "") -> Work:
        steps = int(fields.get("num_inference_steps") or 50) * int(fields.get("n") or 1)
        work = Work(steps, fields, job, time.time())
        if job:
            self._jobs[job] = work
        self.waiting += 1
        self._work.put(work)
        return work

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            self.waiting -= 1
            if not work.cancelled:
                self.running = 1
                work.status, began_s = "in_progress", time.time()
                for step in range(work.steps):
                    self._draws(self.step_s)
                    time.sleep(self.step_s)  # this is the work
                    work.progress = 100 * (step + 1) // work.steps
                self.running = 0
                work.seconds, work.completed_s = time.time() - began_s, time.time()
                work.status = "completed"
                self.served.append(work)
            work.done.set()

    # what is answered

    def models(self) -> dict[str, Any]:
        owner = "vllm" if self.kind == "omni" else "sglang"
        card = {"id": f"tiny-{self.kind}", "object": "model", "created": 1, "owned_by": owner, "root": "m"}
        return {"object": "list", "data": [card]}

    def image(self, fields: dict[str, Any], work: Work, submitted_s: float) -> dict[str, Any]:
        now = int(time.time())
        n, size = int(fields.get("n") or 1), fields.get("size")
        if self.kind == "omni":
            # Now minus submission: queueing is in it, so that the times of several overlap.
            stage_ms = (time.time() - submitted_s) * 1000
            data = [{"b64_json": IMAGE, "url": None, "revised_prompt": None}] * n
            times = {"queue_wait_ms": 0.4, "stage_0_gen_ms": stage_ms}
            return {
                "created": now,
                "data": data,
                "output_format": "png",
                "size": size,
                "metrics": {"stage_durations": times},
            }
        kept = str(uuid4())
        as_json = fields.get("response_format") == "b64_json"
        one = {
            "b64_json": IMAGE if as_json else None,
            "url": None if as_json else f"/v1/images/{kept}/content",
            "revised_prompt": fields.get("prompt"),
            "file_path": f"./sgl-out/{kept}.jpg",
            "resize": None,
        }
        self._jobs[kept] = work
        return {
            "id": kept,
            "created": now,
            "data": [one],
            "peak_memory_mb": None,
            "inference_time_s": work.seconds,
            "usage": None,
        }

    def video(self, work: Work) -> dict[str, Any]:
        over = work.status == "completed"
        fields, completed = work.fields, None if work.completed_s is None else int(work.completed_s)
        common = {
            "object": "video",
            "status": work.status,
            "size": fields.get("size"),
            "progress": work.progress,
            "created_at": int(work.created_s),
            "completed_at": completed,
            "remixed_from_video_id": None,
            "error": None,
            "expires_at": None,
            "inference_time_s": work.seconds if over else None,
            "action": None,
        }
        if self.kind == "sglang":
            return {"id": work.id, "model": "./m-wan", "seconds": "1", "quality": "standard", **common}
        frames, fps = int(fields.get("num_frames") or 9), float(fields.get("fps") or 8)
        return {
            "model": fields.get("model"),
            "prompt": fields.get("prompt"),
            "id": work.id,
            "seconds": "4",
            "quality": "default",
            **common,
            "media_type": "video/mp4",
            "fps": fps,
            "num_frames": frames,
            "duration_s": frames / fps,
            "stage_durations": {},
        }

    def metrics(self) -> str:
        return (
            "# TYPE vllm_omni:num_requests_running gauge\n"
            f'vllm_omni:num_requests_running{{model_name="m"}} {self.running}.0\n'
            f'vllm_omni:num_requests_waiting{{model_name="m"}} {self.waiting}.0\n'
            'vllm_omni:prompt_tokens_total{model_name="m"} 0.0\n'
            'vllm_omni:generation_tokens_total{model_name="m"} 0.0\n'
        )

    def take_back(self, work: Work) -> dict[str, Any]:
        if self.kind == "sglang":  # it goes on, and is only forgotten
            self._jobs.pop(work.id)
            return {**self.video(work), "status": "deleted"}
        work.cancelled = True  # that drops it if it waits; what runs goes on
        self._jobs.pop(work.id)
        return {"id": work.id, "deleted": True, "object": "video.deleted"}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def server_of(self) -> DiffusionServer:
        raise NotImplementedError

    def log_message(self, *_: object) -> None:
        """Nothing is logged."""

    def do_GET(self) -> None:
        of, path = self.server_of, self.path.partition("?")[0]
        if of.kind == "xdit":
            self._json(404, {"detail": "Not Found"})
        elif path == "/health":
            self._send(200, b"", "text/plain")
        elif path == "/v1/models":
            self._json(200, of.models())
        elif path == "/metrics" and of.kind == "omni":
            self._send(200, of.metrics().encode(), "text/plain")
        elif path == "/v1/videos":
            jobs = [work for work in of._jobs.values() if work.id]
            videos = [of.video(work) for work in sorted(jobs, key=lambda w: -w.created_s)]
            self._json(200, {"data": videos, "object": "list", "has_more": False})
        elif found := re.fullmatch(r"/v1/(videos|images)/([^/]+)(/content)?", path):
            self._one(found[1], found[2], content=found[3] is not None)
        else:
            self._json(404, {"detail": "Not Found"})

    def _one(self, what: str, job: str, *, content: bool) -> None:
        of = self.server_of
        work = of._jobs.get(job)
        if work is None:
            self._fault(404, "Video not found")
        elif not content:
            self._json(200, of.video(work))
        elif what == "images":
            self._send(200, base64.b64decode(IMAGE), "image/jpeg")
        elif work.status != "completed":
            self._fault(404, IN_PROGRESS)
        else:
            self._send(200, VIDEO, "video/mp4")

    def do_DELETE(self) -> None:
        work = self.server_of._jobs.get(self.path.rsplit("/", 1)[1])
        if work is None:
            self._fault(404, "Video not found")
        else:
            self._json(200, self.server_of.take_back(work))

    def do_POST(self) -> None:
        of, path = self.server_of, self.path
        body = self._body()
        kind = self.headers.get("content-type", "")
        if kind.startswith("multipart/"):
            fields = _form(body, kind.partition("boundary=")[2].strip('"').encode())
        else:
            fields = json.loads(body)
        if of.kind == "xdit":
            if path != "/generate":
                self._json(404, {"detail": "Not Found"})
                return
            if not fields["prompt"]:
                self._json(400, {"detail": "Prompt cannot be empty"})
                return
            work = of.add(fields)
            work.done.wait()
            self._json(
                200,
                {
                    "message": "Image generated successfully",
                    "elapsed_time": f"{work.seconds:.2f} sec",
                    "output": IMAGE,
                    "save_to_disk": False,
                },
            )
        elif path.startswith("/v1/images/"):
            if fields.get("model") == "nope":
                self._fault(400, "Model mismatch: request specifies 'nope' but server is running 'tiny'.")
                return
            submitted_s = time.time()
            work = of.add(fields)
            work.done.wait()
            self._json(200, of.image(fields, work, submitted_s))
        elif path == "/v1/videos":
            job = f"video_gen_{uuid4().hex}" if of.kind == "omni" else str(uuid4())
            self._json(200, of.video(of.add(fields, job=job)))
        elif path == "/v1/videos/sync" and of.kind == "omni":
            of.add(fields).done.wait()
            self._send(200, VIDEO, "video/mp4", ("x-request-id", "video_sync-1"), ("x-request-id", "other"))
        else:
            self._json(404, {"detail": "Not Found"})

    def _body(self) -> bytes:
        if self.headers.get("transfer-encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("content-length", 0)))
        whole = b""
        while size := int(self.rfile.readline(), 16):
            whole += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return whole

    def _fault(self, status: int, message: str) -> None:
        if self.server_of.kind == "omni":
            self._json(
                status, {"error": {"message": message, "type": "Error", "param": None, "code": status}}
            )
        else:
            self._json(status, {"detail": message})

    def _json(self, status: int, body: object) -> None:
        self._send(status, json.dumps(body, separators=(",", ":")).encode(), "application/json")

    def _send(self, status: int, body: bytes, kind: str, *headers: tuple[str, str]) -> None:
        try:
            self.send_response(status)
            for name, value in (("content-type", kind), ("content-length", str(len(body))), *headers):
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # the client has left; the work was done all the same


def _form(body: bytes, boundary: bytes) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for part in body.split(b"--" + boundary)[1:-1]:
        head, _, value = part.strip(b"\r\n").partition(b"\r\n\r\n")
        name = re.search(rb'name="([^"]+)"', head)
        if name is not None and b"filename=" not in head:
            fields[name[1].decode()] = value.decode()
    return fields
