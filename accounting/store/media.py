"""Images and videos of a request as columns of its row: all NULL for a request of tokens."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

from accounting.events import Media
from accounting.store.many import Values

MEDIA_FIELDS = (
    "media_kind",
    "media_count",
    "media_width",
    "media_height",
    "media_steps",
    "media_frames",
    "media_fps",
)
_NONE: Values = (None,) * len(MEDIA_FIELDS)


def media_values(media: Media | None) -> Values:
    """In the order of MEDIA_FIELDS."""
    if media is None:
        return _NONE
    return (
        media.kind, media.count, media.width, media.height, media.steps, media.frames, media.fps,
    )  # fmt: skip


def take_media(row: MutableMapping[str, Any]) -> Media | None:
    """Take the columns out of a row."""
    kind, count, *others = (row.pop(name) for name in MEDIA_FIELDS)
    width, height, steps, frames, fps = others
    if kind is None:
        return None
    return Media(kind=kind, count=count, width=width, height=height, steps=steps, frames=frames, fps=fps)


def made(status: str, values: Values) -> tuple[int, int, int]:
    """Images, videos, and microseconds of video as they are played, that a request with this row brought:
    none where it failed or nobody waited for it."""
    kind, count, _, _, _, frames, fps = values
    if kind is None or status != "ok":
        return 0, 0, 0
    if kind == "image":
        return count, 0, 0
    return 0, count, round(count * frames / fps * 1e6) if frames is not None and fps else 0


def size_of(values: Values) -> str | None:
    """`WxH`."""
    _, _, width, height, *_ = values
    return None if width is None or height is None else f"{width}x{height}"
