"""Whether polling the counter slows decoding: inter-token latency with joulegate's own sampler beside it.

dcgm-exporter at 100 ms cost about 2 % of decode inter-token latency on one NVIDIA system (NVIDIA/srt-slurm
PR 401). Each round measures every period once, in another order, so that a drifting clock hits all alike.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from accounting.clock import Clock
from accounting.events import CounterReads
from accounting.meters.meter import NvmlMeter

PERIODS_MS: tuple[float | None, ...] = (None, 1000.0, 100.0, 30.0, 10.0)
BATCH, PROMPT, WARM_UP = 8, 512, 10
START_S = 20.0


@dataclass(frozen=True)
class Latency:
    """Inter-token latency of BATCH sequences with the counter polled every `period_ms` (None: not)."""

    period_ms: float | None
    tokens: int
    median_ms: float
    mean_ms: float
    p99_ms: float
    over_none: float | None
    """Median over that without polling, mean of the rounds. None for the one without."""
    over_none_sd: float | None
    """Standard deviation of that ratio between rounds; None with one round only."""


def latencies(model: Any, library: Path | None, rounds: int, tokens: int) -> list[Latency]:
    found: dict[float | None, list[np.ndarray[Any, np.dtype[np.float64]]]] = {p: [] for p in PERIODS_MS}
    token_ms(model, tokens)  # the first pass compiles and allocates
    for number in range(rounds):
        turn = number % len(PERIODS_MS)
        for period_ms in (*PERIODS_MS[turn:], *PERIODS_MS[:turn]):
            with polled(period_ms, library):
                found[period_ms].append(token_ms(model, tokens))
    return [_summary(period_ms, found[period_ms], found[None]) for period_ms in PERIODS_MS]


def _summary(period_ms: float | None, rounds: Sequence[Any], without: Sequence[Any]) -> Latency:
    joined = np.concatenate(rounds)
    pairs = zip(rounds, without, strict=True)
    ratios = [float(np.median(a) / np.median(b)) for a, b in pairs] if period_ms is not None else []
    return Latency(
        period_ms=period_ms,
        tokens=len(joined),
        median_ms=float(np.median(joined)),
        mean_ms=float(np.mean(joined)),
        p99_ms=float(np.percentile(joined, 99)),
        over_none=float(np.mean(ratios)) if ratios else None,
        over_none_sd=float(np.std(ratios, ddof=1)) if len(ratios) > 1 else None,
    )


@contextmanager
def polled(period_ms: float | None, library: Path | None) -> Iterator[None]:
    """Run joulegate's sampler at this period during the block. Raises RuntimeError where it reads nothing."""
    if period_ms is None:
        yield
        return
    # No check at the start: it reads more often than asked for, and power besides.
    meter = NvmlMeter(Clock.anchored_now(), library=library, busy_period_s=period_ms / 1000, check_s=0)
    meter.set_busy(True)
    meter.start()
    try:
        deadline_s = time.monotonic() + START_S
        while not any(isinstance(event, CounterReads) for event in meter.drain()):
            if time.monotonic() > deadline_s:
                raise RuntimeError("the sampler reads nothing")
            time.sleep(0.01)
        yield
    finally:
        meter.close()


def token_ms(model: Any, tokens: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Milliseconds per decode step of BATCH sequences, the first WARM_UP left out."""
    import torch

    device, random = model.device, torch.Generator().manual_seed(1)
    vocabulary = model.config.vocab_size
    ids = torch.randint(vocabulary, (BATCH, PROMPT), generator=random).to(device)
    taken = []
    with torch.inference_mode():
        answer = model(ids, use_cache=True, logits_to_keep=1)
        for _ in range(tokens + WARM_UP):
            begin_s = time.perf_counter()
            step = answer.logits[:, -1:].argmax(-1)
            answer = model(step, past_key_values=answer.past_key_values, use_cache=True)
            if device.type == "cuda":
                torch.cuda.synchronize()
            taken.append((time.perf_counter() - begin_s) * 1000)
    return np.asarray(taken[WARM_UP:])
