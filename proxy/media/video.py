"""A video job as its server describes it: OpenAI's object, and what vLLM-Omni and SGLang add to it."""

from __future__ import annotations

from typing import Any

import msgspec

from accounting.events import Media, Status
from proxy import lenient
from proxy.media.ask import of_fields, size_of

OVER: dict[str, Status] = {
    "completed": "ok",
    "failed": "engine_error",
    "deleted": "aborted",
    "cancelled": "aborted",
    "canceled": "aborted",
}
"""The states in which a job does not go on, and how its request ended."""


class _Error(msgspec.Struct):
    message: str | None = None


class Video(msgspec.Struct):
    """The fields that matter here."""

    id: str
    status: str = "queued"
    model: Any = None
    size: Any = None
    seconds: Any = None
    num_frames: Any = None
    fps: Any = None
    num_inference_steps: Any = None
    created_at: Any = None
    completed_at: Any = None
    error: msgspec.Raw = msgspec.Raw()

    @property
    def over(self) -> Status | None:
        """How the request ended; None while the job goes on."""
        return OVER.get(self.status)

    @property
    def fault(self) -> str | None:
        """Why it failed, in the server's words."""
        raw = bytes(self.error)
        if raw in (b"", b"null"):
            return None
        try:
            return msgspec.json.decode(raw, type=_Error).message
        except (msgspec.DecodeError, UnicodeDecodeError):
            return raw[:200].decode("utf-8", "replace")


_decoder = msgspec.json.Decoder(Video)


def parse(document: bytes) -> Video | None:
    """None where this describes no job."""
    video = lenient.decode(_decoder, document)
    return video if video is not None and video.id else None


def refined(asked: Media, video: Video) -> Media:
    """What was asked for, with what the server says that it makes."""
    told = {name: getattr(video, name) for name in ("num_frames", "fps", "num_inference_steps")}
    said = of_fields("/v1/videos", told)
    width, height = size_of(video.size)
    changes = {"width": width, "height": height, "steps": said.steps, "frames": said.frames, "fps": said.fps}
    now = msgspec.structs.replace(asked, **{name: v for name, v in changes.items() if v is not None})
    if now.frames is None and now.fps:
        length = of_fields("/v1/videos", {"seconds": video.seconds, "fps": now.fps}).frames
        now = msgspec.structs.replace(now, frames=length)
    return now
