"""One line of JSON per request: what the client saw of it. Written as requests end, read by whoever joins
them with joulegate's records by their id.

Times are unix seconds. `gaps` is how often which time passed between two pieces of an answer: the key k
stands for 10^(k/40) ms, so that a quantile read from it is right within 3 %.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO

import numpy as np

PER_DECADE = 40
LEAST_MS = 1e-3


@dataclass(slots=True)
class Row:
    """`status` is ok, failed, or cut: broken off because the time was over. None: not known, or not come to.

    `intended_at` is the time at which an open loop meant to send it; equal to `sent_at` in a closed one.
    `tokens` are the engine's own count, `chunks` pieces of text that came; `wanted` the length asked for.
    `joules` is what the answer itself said: provisional.
    """

    id: str
    task: str
    intended_at: float
    sent_at: float
    status: str = "cut"
    first_at: float | None = None
    last_at: float | None = None
    ended_at: float | None = None
    prompt_tokens: int | None = None
    tokens: int | None = None
    wanted: int | None = None
    chunks: int = 0
    joules: float | None = None
    error: str | None = None
    gaps: dict[int, int] = field(default_factory=dict)


class Writer:
    """Appends rows to a file. A line is written at once: what is killed loses none."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file: IO[str] = path.open("w", buffering=1)

    def write(self, row: Row) -> None:
        self._file.write(json.dumps(asdict(row)) + "\n")

    def close(self) -> None:
        self._file.close()


def gaps(chunk_s: Sequence[float]) -> dict[int, int]:
    """Times between pieces, counted as `Row.gaps` has them."""
    if len(chunk_s) < 2:
        return {}
    gaps_ms = np.maximum(np.diff(np.array(chunk_s)) * 1000, LEAST_MS)
    keys, counts = np.unique(np.round(PER_DECADE * np.log10(gaps_ms)).astype(int), return_counts=True)
    return dict(zip(keys.tolist(), counts.tolist(), strict=True))


def merged(many: Iterable[dict[int, int]]) -> dict[int, int]:
    """The counts of many rows together. Keys may be text, as JSON has them."""
    total: Counter[int] = Counter()
    for one in many:
        for key, count in one.items():
            total[int(key)] += count
    return dict(total)


def gap_ms(counts: dict[int, int], part: float) -> float | None:
    """The quantile `part` (0 to 1) of the times between pieces, in ms; None without any."""
    left = part * sum(counts.values())
    for key in sorted(counts):
        left -= counts[key]
        if left <= 0:
            return float(10 ** (key / PER_DECADE))
    return None
