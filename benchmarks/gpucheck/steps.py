"""The steps of the check, in order. Each gives a part of the report; one that fails says so in its place."""

from __future__ import annotations

import gc
import json
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.gpucheck import calls, counter, joules, machine, model, polling
from benchmarks.gpucheck.burner import BoardBurner, Burner, CudaBurner
from benchmarks.gpucheck.reader import open_gpu
from simulator.gpu.board import H100, Board
from simulator.gpu.library import build

REHEARSAL_BUSY_W = 550.0


@dataclass(frozen=True)
class Amounts:
    """How long each step takes."""

    quiet_s: float
    follow_s: float
    block_s: float
    rounds: int
    tokens: int
    plan: joules.Plan
    size: model.Size


FULL = Amounts(
    quiet_s=8.0,
    follow_s=20.0,
    block_s=3.0,
    rounds=3,
    tokens=150,
    plan=joules.Plan(learn_s=45.0, window_s=25.0, arrivals_s=16.0, pairs=3, per_s=2.0, every_s=0.5),
    size="8b",
)
"""Some eight minutes, if an 8B model decodes a token in 30 ms: reckoned, not measured."""

REHEARSAL = Amounts(
    quiet_s=2.0,
    follow_s=6.0,
    block_s=1.2,
    rounds=2,
    tokens=40,
    plan=joules.Plan(learn_s=20.0, window_s=12.0, arrivals_s=6.0, pairs=2, per_s=2.0, every_s=1.0, scale=0.3),
    size="tiny",
)


class Check:
    """The machine under check: a real GPU, or a simulated board where `rehearse` is set."""

    def __init__(self, directory: Path, rehearse: bool) -> None:
        self.directory = directory
        self.amounts = REHEARSAL if rehearse else FULL
        self.device = "cpu" if rehearse else "cuda"
        self.library: Path | None = None
        self.board_file: Path | None = None
        self._board: Board | None = None
        if rehearse:
            self.library, self.board_file = build(directory), directory / "board"
            self._board = Board.create(self.board_file, [H100])
        self.handle = open_gpu(self.library, None)
        self.period_us, self.lag_us = 100_000.0, 0.0

    def burner(self) -> Burner:
        return BoardBurner(self._board, REHEARSAL_BUSY_W) if self._board is not None else CudaBurner()

    def idle(self) -> Any:
        """Power with nothing on the GPU."""
        return calls.power_w(self.handle, self.amounts.quiet_s)

    def calls(self) -> Any:
        """What every call costs, on a quiet GPU."""
        stamps = calls.field_stamps(self.handle, 2.0)
        return {
            "calls": [asdict(cost) for cost in calls.costs(self.handle)],
            "energy_field_stamps": stamps if isinstance(stamps, str) else asdict(stamps),
        }

    def counter(self) -> Any:
        """Period, jitter, lag."""
        found = counter.follow(self.burner(), self.library, self.amounts.follow_s)
        if found.cadence is not None:
            self.period_us = found.cadence.period_us
        if found.lag is not None:
            self.lag_us = found.lag.lag_us
        return asdict(found)

    def sampling(self) -> Any:
        """Whether it sees bursts of a quarter of its period whole."""
        found = counter.undersampling(
            self.burner(), self.library, self.amounts.block_s, self.period_us, self.lag_us
        )
        return asdict(found) if found is not None else None

    def model(self) -> Any:
        """Idle power with the model loaded, then inter-token latency with the counter polled."""
        began_s = time.monotonic()
        llama = model.build(self.amounts.size, self.device)
        made_s = time.monotonic() - began_s
        loaded = calls.power_w(self.handle, self.amounts.quiet_s)
        latencies = polling.latencies(llama, self.library, self.amounts.rounds, self.amounts.tokens)
        del llama
        _free()
        return {
            "size": self.amounts.size,
            "made_s": made_s,
            "idle_with_model": loaded,
            "batch": polling.BATCH,
            "inter_token": [asdict(one) for one in latencies],
        }

    def joules(self) -> Any:
        """joulegate before an engine: books, fit, A/B, and the audit of what it kept."""
        _free()
        with joules.running(
            self.directory, self.amounts.size, self.device, self.library, self.board_file, self.lag_us
        ) as proxy:
            found = joules.check(proxy, self.amounts.plan)
        return {"engine": "transformers continuous batching", **found, "audit": joules.audit(self.directory)}

    def close(self) -> None:
        if self._board is not None:
            self._board.close()


NAMES = ("idle", "calls", "counter", "sampling", "model", "joules")


def run(only: tuple[str, ...], rehearse: bool, out: Path) -> dict[str, Any]:
    """Take the steps; `out` is written after each, so that a check that is cut short leaves what it has."""
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as directory:
        check = Check(Path(directory), rehearse)
        report: dict[str, Any] = {
            "rehearsal": rehearse,
            "machine": machine.describe(check.handle),
            "steps": {},
        }
        try:
            for name in NAMES:
                if not only or name in only:
                    report["steps"][name] = _step(name, getattr(check, name))
                    report["seconds"] = round(time.monotonic() - began_s, 1)
                    out.write_text(json.dumps(report, indent=1) + "\n")
        finally:
            check.close()
    return report


def _step(name: str, step: Callable[[], Any]) -> dict[str, Any]:
    print(f"{name} ...", file=sys.stderr, flush=True)
    began_s = time.monotonic()
    try:
        found: dict[str, Any] = {"result": step()}
    except Exception as error:  # noqa: BLE001 - told in the report: GPU time is dear, the other steps go on
        traceback.print_exc()
        found = {"error": f"{type(error).__name__}: {error}"}
    return {"seconds": round(time.monotonic() - began_s, 1), **found}


def _free() -> None:
    """Give back the GPU memory that nothing holds any more: the engine needs it."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
