"""What a request for images or a video asks for, from its JSON or the fields of its form.

Names are those of OpenAI's API and of what vLLM-Omni 0.30 and SGLang 0.5.23 take beside them. What is not
said, or makes no sense, is None: the server's default is not known here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from accounting.events import Media
from proxy import lenient

IMAGE_ROUTES = ("/v1/images/generations", "/v1/images/edits", "/v1/images/variations")
VIDEO_ROUTES = ("/v1/videos", "/v1/videos/sync")
JOB_ROUTE = "/v1/videos"
"""A POST here is answered with the description of a job that goes on."""

MOST = 1_000_000
_SIZE = re.compile(r"(\d{1,6})\s*[xX*]\s*(\d{1,6})").fullmatch


class _Body(msgspec.Struct):
    n: Any = None
    size: Any = None
    width: Any = None
    height: Any = None
    num_inference_steps: Any = None
    num_frames: Any = None
    fps: Any = None
    seconds: Any = None


FIELDS = frozenset(_Body.__struct_fields__)
_decoder = msgspec.json.Decoder(_Body)


def is_media(method: str, path: str) -> bool:
    """Whether a request is for images or a video."""
    return method == "POST" and (path in IMAGE_ROUTES or path in VIDEO_ROUTES)


def of_json(path: str, body: bytes | bytearray) -> Media:
    """What a body asks for; all unknown where it cannot be read."""
    parsed = lenient.decode(_decoder, body)
    return of_fields(path, {} if parsed is None else {name: getattr(parsed, name) for name in FIELDS})


def of_fields(path: str, fields: Mapping[str, Any]) -> Media:
    """The same from fields by name, numbers as such or as text."""
    width, height = size_of(fields.get("size"))
    if width is None:
        width, height = _whole(fields.get("width")), _whole(fields.get("height"))
        if width is None or height is None:
            width = height = None
    video = path in VIDEO_ROUTES
    fps, seconds = _number(fields.get("fps")), _number(fields.get("seconds"))
    frames = _whole(fields.get("num_frames"))
    if frames is None and fps and seconds:
        frames = round(fps * seconds) or None
    return Media(
        kind="video" if video else "image",
        count=_whole(fields.get("n")) or 1,
        width=width,
        height=height,
        steps=_whole(fields.get("num_inference_steps")),
        frames=frames if video else None,
        fps=fps if video else None,
    )


def size_of(size: Any) -> tuple[int, int] | tuple[None, None]:
    """Width and height of `WxH`."""
    found = _SIZE(size) if isinstance(size, str) else None
    if found is None or not (width := int(found[1])) or not (height := int(found[2])):
        return None, None
    return width, height


def _whole(value: Any) -> int | None:
    number = _number(value)
    return None if number is None or number != int(number) else int(number)


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if 0 < number <= MOST else None
