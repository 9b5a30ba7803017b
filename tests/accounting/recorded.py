"""Writes traces whose answers are known: GPUs of given power, requests at given times."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.accounting.ledger.story import Power, us

Line = dict[str, Any]
IDLE_W = 100
CARD = {"name": "m", "layers": 32, "experts": None}


def backend(name: str = "b", gpus: Sequence[str] = ("G",), **changes: object) -> Line:
    line = {"type": "backend", "id": name, "gpu_model": "NVIDIA H100 80GB HBM3", "gpus": list(gpus)}
    return {**line, "power_limit_w": 700, "counter_lag_s": 0.0, "model": CARD, **changes}


def energy(gpu: str, until: float, *busy: tuple[float, int], since: float = 0.0) -> Line:
    """A counter that steps each tenth of a second, read just before and after; idle but for `busy` steps."""
    power = Power((-1, IDLE_W), *busy)
    times, values = [], []
    for k in range(round(since * 10) + 1, round(until * 10) + 1):
        # Read 1 ms before and after the step, so that its middle is exact.
        for shown, t in ((k - 1, k / 10 - 0.001), (k, k / 10 + 0.001)):
            times.append(round(t, 4))
            values.append(5_000_000 + power.energy_uj(us(-1), us(shown / 10)) // 1000)
    return {"type": "energy", "gpu": gpu, "t": times, "mj": values}


def request(
    name: str, start: float, end: float, *, chunks: int = 20, backend: str = "b", **changes: object
) -> Line:
    """A request whose chunks come evenly, the last at its end."""
    gaps = [round((end - start) * 1000 / max(chunks, 1), 3)] * chunks
    usage = {"prompt_tokens": 100, "cached_tokens": 40, "completion_tokens": chunks}
    line = {"type": "request", "id": name, "backend": backend, "tenant": "t", "start": start, "end": end}
    return {**line, "chunk_gap_ms": gaps, "status": "ok", "usage": usage, **changes}


def write(path: Path, *lines: Line) -> Path:
    data = "".join(json.dumps(line) + "\n" for line in lines).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path
