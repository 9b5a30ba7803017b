"""A machine with simulated GPUs for a test: a board and, beside it, the compiled library that shows it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from simulator.gpu.board import H100, Board, GpuSpec

PRELUDE = """
import ctypes, json, sys, time
import pynvml as nvml
nvml.nvmlLib = ctypes.CDLL(sys.argv[1])
nvml.nvmlInit()
"""


class Machine:
    """`library` is what a process has to load to see `board`."""

    def __init__(self, directory: Path, compiled: Path, gpus: list[GpuSpec], **board: Any) -> None:
        directory.mkdir()
        self.library = Path(shutil.copy(compiled, directory))
        self.board = Board.create(directory / "board", gpus, **board)
        self.uuids = [gpu.uuid for gpu in gpus]

    def ask(self, code: str, **environment: str) -> Any:
        """Run `code` in a process that has initialised NVML; it calls `answer(x)` with what to return."""
        script = f"{PRELUDE}\ndef answer(x): print(json.dumps(x))\n{code}"
        command = [sys.executable, "-c", script, str(self.library)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


class Machines:
    """Makes machines of one test, each in its own directory, and takes them apart."""

    def __init__(self, directory: Path, compiled: Path) -> None:
        self._directory, self._compiled = directory, compiled
        self._made: list[Machine] = []

    def make(self, count: int = 1, *, mig: int = 0, **board: Any) -> Machine:
        """A machine with `count` H100s, each split into `mig` instances; `board` goes to `Board.create`."""
        gpus = [replace(H100, mig_instances=mig).numbered(n) for n in range(count)]
        machine = Machine(self._directory / f"machine-{len(self._made)}", self._compiled, gpus, **board)
        self._made.append(machine)
        return machine

    def close(self) -> None:
        for machine in self._made:
            machine.board.close()
