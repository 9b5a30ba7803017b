"""Real prompts: rows of a data set that the operator has, through Hugging Face `datasets` (extra `datasets`).

A name is a directory or file on this machine or a data set in the local cache; nothing is downloaded unless
--download says so. Which column has the text is found by its name, or told by --column. The first user's turn
of a conversation is what is asked; a question with choices (GPQA) is asked with them; of code with a gap the
part before it. Pictures and videos come from the columns of that name, as the files' own bytes.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from loadgen import asks
from loadgen.asks import Ask, Maker

CONVERSATIONS = ("conversation", "conversations", "conversation_a", "messages", "full_conversation")
TEXTS = ("prompt", "question", "Question", "problem", "instruction", "prefix", "text", "input", "caption")
PICTURES = ("image", "images", "picture")
CLIPS = ("video", "videos", "clip", "video_path")
CHOICES = ("Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")
FILES = {".json": "json", ".jsonl": "json", ".csv": "csv", ".parquet": "parquet"}


class DataError(ValueError):
    """The data set cannot be used; the message says why."""


class Real(NamedTuple):
    """One row: its text and the picture or video that goes with it."""

    text: str
    picture: bytes | None = None
    clip: bytes | None = None


def load(name: str, split: str, config: str | None = None, download: bool = False) -> Any:
    """The data set. Raises DataError where `datasets` or the data are missing."""
    if not download:
        os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise DataError("real data need the extra: pip install joulegate[datasets]") from error
    path = Path(name)
    try:
        if path.suffix in FILES:
            loaded = datasets.load_dataset(FILES[path.suffix], data_files=name, split="train")
        elif (path / "state.json").exists() or (path / "dataset_dict.json").exists():
            saved = datasets.load_from_disk(name)
            loaded = saved[split] if isinstance(saved, dict) else saved
        else:
            loaded = datasets.load_dataset(name, config, split=split)
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"data set {name}: {error}") from error
    for column, kind in loaded.features.items():
        if type(kind).__name__ in ("Image", "Video"):
            loaded = loaded.cast_column(column, type(kind)(decode=False))
    return loaded


def asked(
    maker: Maker, rows: Any, column: str | None = None, share: tuple[int, int] = (0, 1)
) -> Iterator[Ask]:
    """Requests of `rows` in a seeded order, again and again: of every `share[1]` the `share[0]`-th.

    Raises DataError where a row has nothing that this task can ask.
    """
    order = list(range(len(rows)))
    if not order:
        raise DataError("the data set is empty")
    random.Random(f"{maker.task} order").shuffle(order)
    number = share[0]
    while True:
        row = rows[order[number % len(order)]]
        number += share[1]
        yield ask(maker, read(row, column))


def ask(maker: Maker, real: Real) -> Ask:
    """The request of one row."""
    if maker.task in asks.DIFFUSION:
        return maker.draw(real.text)
    if maker.task == "image-chat":
        if real.picture is None:
            raise DataError(f"no column with a picture ({', '.join(PICTURES)})")
        return maker.tell(real.text, asks.seen_picture(real.picture, _picture_kind(real.picture)))
    if maker.task == "video-chat":
        if real.clip is None:
            raise DataError(f"no column with a video ({', '.join(CLIPS)})")
        return maker.tell(real.text, asks.seen_clip(real.clip, "video/mp4"))
    return maker.tell(real.text)


def read(row: dict[str, Any], column: str | None = None) -> Real:
    """Text, picture and video of a row. Raises DataError where there is no text."""
    picture = next((_file(row[name]) for name in PICTURES if row.get(name)), None)
    clip = next((_file(row[name]) for name in CLIPS if row.get(name)), None)
    if column is not None:
        if column not in row:
            raise DataError(f"no column {column!r}: there are {', '.join(row)}")
        return Real(_text(row[column]), picture, clip)
    for name in (*CONVERSATIONS, *TEXTS):
        if row.get(name):
            return Real(_text(row[name]) + _choices(row), picture, clip)
    raise DataError(f"no column with text is known among {', '.join(row)}: name it with --column")


def _text(value: Any) -> str:
    """Of a conversation the first turn of the user."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        for turn in value:
            if not isinstance(turn, dict):
                break
            if (turn.get("role") or turn.get("from")) in ("user", "human"):
                return _text(turn.get("content") or turn.get("value"))
            if turn.get("type") == "text":
                return _text(turn["text"])
        if value and isinstance(value[0], str):
            return value[0]
    raise DataError(f"a {type(value).__name__} has no text that could be asked")


def _choices(row: dict[str, Any]) -> str:
    """The choices of a question that has them, in alphabetical order."""
    given = sorted(str(row[name]).strip() for name in CHOICES if row.get(name))
    return "".join(f"\n({letter}) {choice}" for letter, choice in zip("ABCD", given, strict=False))


def _file(value: Any) -> bytes:
    if isinstance(value, list):
        return _file(value[0])
    if isinstance(value, dict):
        return bytes(value["bytes"]) if value.get("bytes") else Path(value["path"]).read_bytes()
    if isinstance(value, str):
        return Path(value).read_bytes()
    return bytes(value)


def _picture_kind(content: bytes) -> str:
    if content.startswith(b"\x89PNG"):
        return "image/png"
    return "image/webp" if content[8:12] == b"WEBP" else "image/jpeg"
