"""Files for outputs that memory has no room for while the database is away or slow.

They are no second journal: a restart deletes what it finds, as the journal makes the same outputs again.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import msgspec

from accounting.records import Output

Put = tuple[Sequence[Output], int]
"""Outputs, and the segment of the journal that they reach."""


class _Page(msgspec.Struct):
    outputs: list[tuple[str, msgspec.Raw]]
    """Each with the name of its type."""
    segment: int
    puts: int


_encoder, _decoder = msgspec.msgpack.Encoder(), msgspec.msgpack.Decoder(_Page)
_of_kind = {kind.__name__: msgspec.msgpack.Decoder(kind) for kind in get_args(Output)}


class Spill:
    """A directory of pages, each some puts in one. Methods raise OSError when the disk refuses."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._written = 0

    def clear(self) -> None:
        """Delete what an earlier process left."""
        for path in self._directory.glob("*.page"):
            path.unlink()

    def write(self, puts: Sequence[Put]) -> Path:
        outputs = [
            (type(output).__name__, msgspec.Raw(_encoder.encode(output)))
            for some, _ in puts
            for output in some
        ]
        page = _Page(
            outputs=outputs,
            segment=max(segment for _, segment in puts),
            puts=len(puts),
        )
        self._directory.mkdir(parents=True, exist_ok=True)
        path = self._directory / f"{self._written + 1:08d}.page"
        try:
            path.write_bytes(_encoder.encode(page))
        except OSError:
            path.unlink(missing_ok=True)  # a disk that is full gets its space back
            raise
        self._written += 1
        return path

    def read(self, path: Path) -> tuple[list[Output], int, int]:
        """The page's outputs, the segment they reach, and how many puts they were."""
        page = _decoder.decode(path.read_bytes())
        return [_of_kind[kind].decode(raw) for kind, raw in page.outputs], page.segment, page.puts
