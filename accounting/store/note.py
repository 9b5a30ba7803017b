"""A note beside the journal of how far all is stored, for a start at which the database is away."""

from __future__ import annotations

import logging
from pathlib import Path

log = logging.getLogger(__name__)


class Note:
    """Holds a segment's number. An older number than is true only makes a restart replay more."""

    def __init__(self, directory: Path | None) -> None:
        """Without a directory nothing is noted."""
        self._path = None if directory is None else directory / "stored-segment"
        self._noted: int | None = None

    def read(self) -> int | None:
        """None where there is none. Raises OSError."""
        if self._path is None or not self._path.exists():
            return None
        text = self._path.read_text().strip()
        return int(text) if text.isdigit() else None

    def write(self, segment: int) -> None:
        if self._path is None or segment == self._noted:
            return
        part = self._path.with_suffix(".part")
        try:
            part.parent.mkdir(parents=True, exist_ok=True)
            part.write_text(f"{segment}\n")
            part.rename(self._path)
        except OSError as error:
            log.warning("store: cannot note how far all is stored (%s)", error)
        self._noted = segment
