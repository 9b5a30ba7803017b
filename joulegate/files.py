"""A file that is there only once it is whole."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any


@contextmanager
def replacing(output: Path, *, binary: bool = False) -> Iterator[IO[Any]]:
    """A file to write, which takes `output`'s place at the end; where that fails, nothing is left of it.

    Raises OSError that names `output`.
    """
    beside = output.with_name(f".{output.name}.part")
    try:
        with beside.open("wb") if binary else beside.open("w", encoding="utf-8", newline="") as file:
            yield file
        beside.replace(output)
    except OSError as error:
        if error.filename == str(beside):
            error.filename = str(output)
        raise
    finally:
        beside.unlink(missing_ok=True)
