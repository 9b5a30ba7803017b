"""Small files beside the journal, written as a whole: what has to be known when the database is away.

They hold hashes, names and sums, no secret, and only their owner may read them.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TypeVar

import msgspec

log = logging.getLogger(__name__)

T = TypeVar("T")


def save(path: Path, value: object) -> None:
    """Replace the file; a crash leaves the old one or the new one. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    part = path.with_suffix(".part")
    fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(msgspec.json.encode(value))
    part.rename(path)


def read(path: Path, kind: type[T]) -> T | None:
    """None where there is none, or none that can be read (told in the log)."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        log.error("%s cannot be read: %s", path, error)
        return None
