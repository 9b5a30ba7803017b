"""Zeus beside us: the same windows, the same counters, at the same time, in an environment of its own.

Zeus (ml-energy/zeus) reads the energy counter where a window begins and where it ends, and takes the
difference. It is installed once into a cache outside the clone and is no dependency of the project.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.metering.course import Window

VERSION = "0.16.0"
RUN = Path(__file__).with_name("zeus_run.py")
WAIT_S = 60.0


@dataclass(frozen=True)
class Measured:
    """What Zeus gave for a window, and the window as it really was (monotonic microseconds)."""

    t0_us: int
    t1_us: int
    energy_uj: int


class ZeusMissing(Exception):
    """It cannot be installed here; the message says why."""


def python() -> Path:
    """The interpreter of Zeus's environment, made where it is not there. Raises ZeusMissing."""
    cache = Path(os.environ.get("JOULEGATE_CACHE") or Path.home() / ".cache" / "joulegate")
    directory = cache / f"zeus-{VERSION}-py{sys.version_info.major}{sys.version_info.minor}"
    found, complete = directory / "bin" / "python", directory / ".complete"
    if not complete.exists():
        print(f"installing zeus {VERSION} into {directory} (once) ...", file=sys.stderr, flush=True)
        _do([sys.executable, "-m", "venv", "--clear", str(directory)])
        _do([str(found), "-m", "pip", "install", "--quiet", f"zeus=={VERSION}"])
        complete.touch()
    return found


def _do(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ZeusMissing(f"{' '.join(command)}: {done.stderr.strip()[-300:]}")


class Zeus:
    """A process that measures the windows as they come. Raises ZeusMissing where it does not start."""

    def __init__(self, interpreter: Path, directory: Path, windows: list[Window]) -> None:
        """`directory` holds the simulated library, and takes the plan and the result."""
        plan, self._result = directory / "zeus-plan.json", directory / "zeus-result.json"
        plan.write_text(json.dumps([[w.gpu, w.t0_us, w.t1_us] for w in windows]))
        environment = {
            **os.environ,
            "LD_LIBRARY_PATH": str(directory),
            "JOULEGATE_SIM_BOARD": str(directory / "board"),
        }
        self._process = subprocess.Popen(
            [str(interpreter), "-P", str(RUN), str(plan), str(self._result)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def ready(self) -> None:
        """Wait until it has found its GPUs."""
        assert self._process.stdout is not None
        if self._process.stdout.readline().strip() != "ready":
            self._fail()

    def result(self) -> list[Measured]:
        """Wait for its end. Raises ZeusMissing where it failed."""
        try:
            self._process.wait(WAIT_S)
        except subprocess.TimeoutExpired:
            self._fail()
        if self._process.returncode != 0:
            self._fail()
        rows = json.loads(self._result.read_text())
        return [Measured(round(t0), round(t1), round(joules * 1e6)) for t0, t1, joules in rows]

    def _fail(self) -> None:
        self._process.kill()
        _, said = self._process.communicate()
        raise ZeusMissing(f"zeus {VERSION} fails: {said.strip()[-600:]}")
