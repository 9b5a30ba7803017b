"""Video jobs as vLLM-Omni 0.30 keeps them: what is told of one, and the list of all."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field
from typing import Any

from simulator.diffusion.asks import VideoAsk
from simulator.diffusion.engine import MediaRun
from simulator.diffusion.files import mp4


@dataclass(eq=False, slots=True)
class Video:
    """A job. It is deleted from the list when its client says so; its run knows more."""

    ask: VideoAsk
    model: str
    run: MediaRun
    id: str = field(default_factory=lambda: f"video_gen_{uuid.uuid4().hex}")
    created_s: float = field(default_factory=time.time)

    @property
    def status(self) -> str:
        if self.run.ended.is_set():
            return "completed"
        return "in_progress" if self.run.begun.is_set() else "queued"

    def as_dict(self) -> dict[str, Any]:
        ask, done = self.ask, self.run.ended.is_set()
        frames = ask.asked_frames
        length_s = float(ask.seconds) if ask.seconds else frames / ask.shown_fps if frames else None
        stages = {"queue_wait_ms": self.run.queue_ms, "stage_0_gen_ms": self.run.generation_ms}
        return {
            "model": self.model,
            "prompt": ask.prompt,
            "id": self.id,
            "object": "video",
            "status": self.status,
            "size": ask.size,
            "progress": 100 if done else 0,
            "seconds": ask.seconds or "4",
            "quality": ask.quality or "default",
            "completed_at": int(self.run.ended_s) if self.run.ended_s else None,
            "created_at": int(self.created_s),
            "remixed_from_video_id": None,
            "error": None,
            "media_type": "video/mp4",
            "expires_at": None,
            "file_name": f"{self.id}.mp4" if done else None,
            "inference_time_s": self.run.generation_ms / 1000 if done else None,
            "fps": ask.shown_fps,
            "num_frames": frames,
            "duration_s": length_s,
            "metrics": None,
            "stage_durations": stages if done else {},
            "peak_memory_mb": 0.0,
            "action": None,
        }

    def file(self) -> bytes:
        shape = self.run.job.shape
        return mp4(shape.width, shape.height, shape.frames, self.ask.shown_fps)


def page(videos: list[Video], after: str | None, limit: int | None, newest_first: bool) -> dict[str, Any]:
    """The answer to a question for the list."""
    jobs = sorted(videos, key=lambda video: int(video.created_s), reverse=newest_first)
    if after is not None:
        at = next((k for k, video in enumerate(jobs) if video.id == after), len(jobs))
        jobs = jobs[at + 1 :]
    shown = jobs if limit is None else jobs[:limit]
    return {
        "first_id": shown[0].id if shown else None,
        "last_id": shown[-1].id if shown else None,
        "has_more": len(shown) < len(jobs),
        "data": [video.as_dict() for video in shown],
        "object": "list",
    }
