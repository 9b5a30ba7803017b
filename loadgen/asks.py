"""What a request of each of the paper's seven tasks asks, in stock OpenAI form. Pure: seeded, no I/O.

    chat, reasoning    Chat Completions, random words
    code               Completions, random words
    image-chat         Chat Completions with a picture made on the fly
    video-chat         the same with a video (the part `video_url`, vLLM's extension)
    text-to-image      Images API
    text-to-video      Videos API: a job that is created, asked after and fetched

Lengths of text are the paper's (lengths.py). Beyond the stock fields only `ignore_eos` is sent, as without it
an engine would end generated prompts' answers where it likes, and the steps of diffusion where --steps says
them.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from typing import Any

from loadgen import lengths, media
from loadgen.prompts import WORDS

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
IMAGES, VIDEOS = "/v1/images/generations", "/v1/videos"
DIFFUSION = ("text-to-image", "text-to-video")
NAMES = (*lengths.TASKS, *DIFFUSION)

BOUNDARY = "joulegate-loadgen-form"
CAPTION_TOKENS = 30
"""Mean length of what images and videos are asked for with. Assumed."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One request. `wanted` is the length of the answer in tokens that the engine is asked for; None: its
    own.
    """

    path: str
    body: dict[str, Any]
    wanted: int | None = None

    def encoded(self) -> tuple[str, str]:
        """Content type and body: JSON; for videos a form, as OpenAI's client sends it."""
        if self.path != VIDEOS:
            return "application/json", json.dumps(self.body)
        lines = [
            f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
            for name, value in self.body.items()
        ]
        return f"multipart/form-data; boundary={BOUNDARY}", "".join([*lines, f"--{BOUNDARY}--\r\n"])


@dataclass(frozen=True, slots=True)
class Sizes:
    """Of what is sent and asked for. `shorter` stretches text and answers, `longest` bounds answers
    (tokens).
    """

    longest: int = 32_768
    shorter: float = 1.0
    picture: tuple[int, int] = (512, 512)
    """Width and height of pictures that are sent, in pixels."""
    clip: tuple[int, int] = (320, 240)
    clip_frames: int = 16
    clip_fps: int = 8
    output: tuple[int, int] = (1024, 1024)
    """Of images that are to be made."""
    video_output: tuple[int, int] = (832, 480)
    video_seconds: int = 5
    steps: int | None = None
    """Denoising steps; None: what the server takes by itself."""


@dataclass(slots=True)
class Maker:
    """Makes the requests of one task, one after the other. `like` is a Hugging Face name, or empty."""

    task: str
    model: str
    pick: random.Random
    like: str = ""
    sizes: Sizes = field(default_factory=Sizes)

    def next(self) -> Ask:
        """A generated request."""
        if self.task in DIFFUSION:
            return self.draw(self._words(CAPTION_TOKENS))
        task = lengths.TASKS[self.task]
        answer = lengths.draw_answer(self.pick, lengths.answer_tokens(self.task, self.like or None))
        wanted = min(max(round(answer * self.sizes.shorter), 2), self.sizes.longest)
        shown = None
        if self.task == "image-chat":
            shown = self._picture()
        elif self.task == "video-chat":
            shown = self._clip()
        return self.tell(self._words(task.text_tokens), shown, wanted)

    def tell(self, text: str, shown: dict[str, Any] | None = None, wanted: int | None = None) -> Ask:
        """A request for text about `text` and a part that is seen; without `wanted` the answer ends
        itself.
        """
        options: dict[str, Any] = {"model": self.model, "max_tokens": wanted or self.sizes.longest}
        if wanted is not None:
            options["ignore_eos"] = True
        options |= {"stream": True, "stream_options": {"include_usage": True}}
        if self.task == "code":
            return Ask(COMPLETIONS, {**options, "prompt": text}, wanted)
        content = text if shown is None else [shown, {"type": "text", "text": text}]
        return Ask(CHAT, {**options, "messages": [{"role": "user", "content": content}]}, wanted)

    def draw(self, text: str) -> Ask:
        """A request for an image or a video of `text`."""
        body: dict[str, Any] = {"model": self.model, "prompt": text}
        if self.sizes.steps is not None:
            body["num_inference_steps"] = self.sizes.steps
        if self.task == "text-to-image":
            return Ask(IMAGES, {**body, "n": 1, "size": "{}x{}".format(*self.sizes.output)})
        size = "{}x{}".format(*self.sizes.video_output)
        return Ask(VIDEOS, {**body, "size": size, "seconds": str(self.sizes.video_seconds)})

    def _words(self, mean: float) -> str:
        count = lengths.draw_prompt(self.pick, mean * self.sizes.shorter)
        return " ".join(self.pick.choices(WORDS, k=count))

    def _picture(self) -> dict[str, Any]:
        return seen_picture(media.png(*self.sizes.picture, self.pick), "image/png")

    def _clip(self) -> dict[str, Any]:
        clip = media.avi(*self.sizes.clip, self.sizes.clip_frames, self.sizes.clip_fps, self.pick)
        return seen_clip(clip, "video/x-msvideo")


def seen_picture(content: bytes, kind: str) -> dict[str, Any]:
    """The part of a message that shows a picture of this media type."""
    return {"type": "image_url", "image_url": {"url": media.data_url(kind, content)}}


def seen_clip(content: bytes, kind: str) -> dict[str, Any]:
    """The part of a message that shows a video."""
    return {"type": "video_url", "video_url": {"url": media.data_url(kind, content)}}
