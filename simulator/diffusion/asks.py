"""What clients ask of the diffusion server: JSON bodies and multipart forms, with vLLM-Omni 0.30's limits."""

from __future__ import annotations

import re
from email.message import Message
from email.parser import BytesParser
from email.policy import HTTP
from typing import Annotated, Any, TypeVar

import msgspec
from starlette.requests import Request

from simulator import bodies
from simulator.diffusion.cards import DiffusionCard, Shape
from simulator.errors import EngineError, invalid

Steps = Annotated[int, msgspec.Meta(ge=1, le=200)]
Size = Annotated[str, msgspec.Meta(pattern=r"^\d+x\d+$")]
Seconds = Annotated[str, msgspec.Meta(pattern=r"^[1-9]\d*$")]

DEFAULT_FPS = 24.0
"""Of a video that says nothing, whatever its model was made for."""


class ImageAsk(msgspec.Struct, kw_only=True):
    """Of /v1/images/generations; /v1/images/edits asks the same in a form."""

    prompt: str
    model: str | None = None
    n: Annotated[int, msgspec.Meta(ge=1, le=10)] = 1
    size: str | None = None
    response_format: str = "b64_json"
    num_inference_steps: Steps | None = None
    seed: int | None = None
    output_format: str | None = None

    def shape(self, card: DiffusionCard) -> Shape:
        width, height = _size(self.size, card)
        return Shape(width, height, self.num_inference_steps or card.shape.steps, 1)


class VideoAsk(msgspec.Struct, kw_only=True):
    """Of /v1/videos and /v1/videos/sync."""

    prompt: str
    model: str | None = None
    seconds: Seconds | None = None
    size: Size | None = None
    num_frames: bodies.Positive | None = None
    fps: Annotated[float, msgspec.Meta(ge=1)] | None = None
    num_inference_steps: Steps | None = None
    quality: str | None = None
    seed: int | None = None

    @property
    def shown_fps(self) -> float:
        return self.fps or DEFAULT_FPS

    @property
    def asked_frames(self) -> int | None:
        """Frames as far as the request says; the model's own number where it does not."""
        if self.num_frames is None and self.seconds is not None:
            return int(int(self.seconds) * self.shown_fps)
        return self.num_frames

    def shape(self, card: DiffusionCard) -> Shape:
        width, height = _size(self.size, card)
        steps = self.num_inference_steps or card.shape.steps
        return Shape(width, height, steps, self.asked_frames or card.shape.frames)


T = TypeVar("T", ImageAsk, VideoAsk)


def _size(size: str | None, card: DiffusionCard) -> tuple[int, int]:
    if size is None or size == "auto":
        return card.shape.width, card.shape.height
    found = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", size)
    if found is None:
        message = "Value error, size must be in format 'WIDTHxHEIGHT' (e.g., '1024x1024')"
        raise invalid("value_error", "body.size", message, size)
    return int(found[1]), int(found[2])


async def from_json(request: Request, kind: type[T]) -> T:
    """Raises EngineError."""
    if not request.headers.get("content-type", "").startswith("application/json"):
        message = "1 validation error:\n  Unsupported Media Type: Only 'application/json' is allowed"
        raise EngineError(400, "Bad Request", message)
    return bodies.read(await request.body(), kind)


async def from_form(request: Request, kind: type[T]) -> T:
    """Files are passed over. Raises EngineError."""
    fields = _fields(request.headers.get("content-type", ""), await request.body())
    known = {name: value for name, value in fields.items() if name in kind.__struct_fields__ and value}
    try:
        return msgspec.convert(known, kind, strict=False)
    except msgspec.ValidationError as error:
        where = re.search(r"`\$\.(\w+)`|field `(\w+)`", str(error))
        name = next((group for group in (where.groups() if where else ()) if group), "")
        raise invalid("value_error", f"body.{name}", str(error), known.get(name)) from error


def _fields(content_type: str, body: bytes) -> dict[str, str]:
    """The fields of a form that are no files."""
    if not content_type.startswith("multipart/form-data"):
        return {}
    head = f"Content-Type: {content_type}\r\n\r\n".encode()
    parts: Any = BytesParser(policy=HTTP).parsebytes(head + body).get_payload()
    found: dict[str, str] = {}
    for part in parts if isinstance(parts, list) else ():
        assert isinstance(part, Message)
        name = part.get_param("name", header="content-disposition")
        content = part.get_payload(decode=True)
        if isinstance(name, str) and part.get_filename() is None and isinstance(content, bytes):
            found[name] = content.decode(errors="replace").removesuffix("\r\n")
    return found
