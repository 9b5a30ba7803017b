"""The board: one file that holds what the simulated GPUs really do, shared between processes.

An engine writes the true energy curve of each GPU with `Board.extend`; the library compiled from `nvml.c`
maps the same file and answers NVML calls from it, as a real driver would. The binary layout is described
in `nvml.c` and mirrored by the ctypes structures below (a test compares the two).

The curve is linear between its points and goes on at idle power after the last one. A point may lie in the
future: an engine that says at the start of a step when it ends and what it draws is seen exactly. One
writer per GPU; any number of readers.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

MAGIC = b"JGBOARD2"
MAX_RULES = 64
RING_POINTS = 65_536
FOREVER = 0xFFFF_FFFF
LIBRARY = -1
"""As the `gpu` of a fault: the calls that belong to no GPU, such as nvmlInitWithFlags."""


class RuleStruct(ctypes.Structure):
    """A fault rule; `struct rule` in nvml.c."""

    _fields_ = (
        ("active", ctypes.c_uint32),
        ("gpu", ctypes.c_int32),
        ("code", ctypes.c_int32),
        ("skip", ctypes.c_uint32),
        ("count", ctypes.c_uint32),
        ("calls", ctypes.c_uint32),
        ("delay_us", ctypes.c_uint64),
        ("function", ctypes.c_char * 64),
    )


class HeaderStruct(ctypes.Structure):
    """The head of the file; `struct board` in nvml.c."""

    _fields_ = (
        ("magic", ctypes.c_char * 8),
        ("gpu_count", ctypes.c_uint32),
        ("ring_points", ctypes.c_uint32),
        ("rules", RuleStruct * MAX_RULES),
    )


class PointStruct(ctypes.Structure):
    """A point of the true curve; `struct point` in nvml.c."""

    _fields_ = (("t_us", ctypes.c_int64), ("energy_uj", ctypes.c_int64))


class GpuStruct(ctypes.Structure):
    """One GPU; `struct gpu` in nvml.c. They follow the header."""

    _fields_ = (
        ("uuid", ctypes.c_char * 80),
        ("name", ctypes.c_char * 80),
        ("power_limit_mw", ctypes.c_int64),
        ("idle_power_mw", ctypes.c_int64),
        ("memory_bytes", ctypes.c_uint64),
        ("default_limit_mw", ctypes.c_int64),
        ("mig_count", ctypes.c_int64),
        ("period_us", ctypes.c_int64),
        ("jitter_us", ctypes.c_int64),
        ("lag_us", ctypes.c_int64),
        ("seed", ctypes.c_uint64),
        ("base_uj", ctypes.c_int64),
        ("frozen_us", ctypes.c_int64),
        ("counter_ppm", ctypes.c_int64),
        ("shown_power_mw", ctypes.c_int64),
        ("head", ctypes.c_uint64),
        ("ring", PointStruct * RING_POINTS),
    )


@dataclass(frozen=True)
class GpuSpec:
    """What a simulated GPU is. The library adds " (simulated)" to the name it shows."""

    uuid: str
    name: str
    power_limit_w: float
    idle_power_w: float
    memory_bytes: int = 80 * 2**30
    mig_instances: int = 0
    """MIG instances that it is split into (at most 7); 0: MIG is off."""

    def numbered(self, n: int) -> GpuSpec:
        """The same model with the n-th UUID, for a machine with several (0 <= n < 65536)."""
        return replace(self, uuid=f"{self.uuid[:-4]}{n:04x}")


H100 = GpuSpec("GPU-51e00100-0000-4000-8000-000000000000", "NVIDIA H100 80GB HBM3", 700.0, 110.0)
"""700 W: the TDP (arXiv 2601.22076). Idle with a model loaded: 110 W, an assumption, not a measurement."""

B200 = GpuSpec("GPU-51e00200-0000-4000-8000-000000000000", "NVIDIA B200", 1000.0, 140.0, 180 * 2**30)
"""1000 W: the TDP (arXiv 2601.22076). Idle with a model loaded: 140 W, an assumption, not a measurement."""


def monotonic_us() -> int:
    """CLOCK_MONOTONIC in microseconds, the time of every point."""
    return time.monotonic_ns() // 1000


class Board:
    """A board file, mapped. Use `create` for a new one and `attach` for one that another process made."""

    def __init__(self, path: Path, mapped: mmap.mmap, header: HeaderStruct, gpus: list[GpuStruct]) -> None:
        self.path = path
        self._map = mapped
        self._header: HeaderStruct | None = header
        self._gpus = gpus

    @classmethod
    def create(
        cls,
        path: Path,
        gpus: Sequence[GpuSpec],
        *,
        period_us: int = 100_000,
        jitter_us: int = 3_000,
        lag_us: int = 20_000,
        seed: int = 0,
    ) -> Board:
        """Make a board whose GPUs begin idle, now, at 0 J.

        Each counter publishes once per `period_us`, up to `jitter_us` early or late, the true energy of
        `lag_us` ago. Raises ValueError when the jitter could make a counter run backwards.
        """
        if not gpus or period_us <= 0 or not 0 <= 2 * jitter_us < period_us or lag_us < 0:
            raise ValueError("a board needs a GPU, period_us > 2 * jitter_us >= 0 and lag_us >= 0")
        partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
        with partial.open("wb") as file:
            file.truncate(ctypes.sizeof(HeaderStruct) + len(gpus) * ctypes.sizeof(GpuStruct))
        board = cls._map_file(partial, len(gpus))
        now_us = monotonic_us()
        for index, (spec, gpu) in enumerate(zip(gpus, board._gpus, strict=True)):
            gpu.uuid, gpu.name = spec.uuid.encode(), spec.name.encode()
            gpu.power_limit_mw = round(spec.power_limit_w * 1000)
            gpu.idle_power_mw = round(spec.idle_power_w * 1000)
            gpu.default_limit_mw, gpu.counter_ppm = gpu.power_limit_mw, 1_000_000
            gpu.memory_bytes, gpu.mig_count = spec.memory_bytes, spec.mig_instances
            gpu.period_us, gpu.jitter_us, gpu.lag_us, gpu.seed = period_us, jitter_us, lag_us, seed + index
            gpu.ring[0].t_us = now_us
            gpu.head = 1
        header = board._head()
        header.gpu_count, header.ring_points, header.magic = len(gpus), RING_POINTS, MAGIC
        partial.replace(path)
        board.path = path
        return board

    @classmethod
    def attach(cls, path: Path) -> Board:
        """Map a board that exists. Raises FileNotFoundError, or ValueError when it is no board."""
        with path.open("rb") as file:
            header = HeaderStruct.from_buffer_copy(file.read(ctypes.sizeof(HeaderStruct)))
        if header.magic != MAGIC or header.ring_points != RING_POINTS:
            raise ValueError(f"{path} is not a board of this version")
        return cls._map_file(path, header.gpu_count)

    @classmethod
    def _map_file(cls, path: Path, count: int) -> Board:
        with path.open("r+b") as file:
            mapped = mmap.mmap(file.fileno(), 0)
        first, size = ctypes.sizeof(HeaderStruct), ctypes.sizeof(GpuStruct)
        gpus = [GpuStruct.from_buffer(mapped, first + i * size) for i in range(count)]
        return cls(path, mapped, HeaderStruct.from_buffer(mapped), gpus)

    def _head(self) -> HeaderStruct:
        if self._header is None:
            raise ValueError("the board is closed")
        return self._header

    def __len__(self) -> int:
        """How many GPUs it has."""
        return len(self._gpus)

    def last(self, gpu: int) -> tuple[int, int]:
        """The curve's last point: monotonic microseconds, cumulative microjoules."""
        point = self._gpus[gpu].ring[(self._gpus[gpu].head - 1) % RING_POINTS]
        return point.t_us, point.energy_uj

    def extend(self, gpu: int, t_us: int, energy_uj: int) -> None:
        """Append a point of the true curve: monotonic microseconds, cumulative microjoules since `create`.

        Raises ValueError when time or energy would run backwards. A writer that comes late continues from
        `energy_uj(gpu, now)`, which is what the GPU has drawn meanwhile.
        """
        last_us, last_uj = self.last(gpu)
        if t_us < last_us or energy_uj < last_uj:
            raise ValueError(f"({t_us} us, {energy_uj} uJ) comes before ({last_us} us, {last_uj} uJ)")
        block = self._gpus[gpu]
        point = block.ring[block.head % RING_POINTS]
        point.t_us, point.energy_uj = t_us, energy_uj
        block.head += 1  # last: only now do readers look at the point

    def energy_uj(self, gpu: int, t_us: int) -> int:
        """The truth: cumulative microjoules at `t_us`, as far back as the ring reaches."""
        block = self._gpus[gpu]
        head, ring = block.head, block.ring
        low, high = max(0, head - RING_POINTS + 1), head - 1
        if t_us >= ring[high % RING_POINTS].t_us:
            last = ring[high % RING_POINTS]
            return int(last.energy_uj + (t_us - last.t_us) * block.idle_power_mw // 1000)
        if t_us < ring[low % RING_POINTS].t_us:
            first = ring[low % RING_POINTS]
            return int(first.energy_uj - (first.t_us - t_us) * block.idle_power_mw // 1000)
        while high - low > 1:
            middle = (low + high) // 2
            if ring[middle % RING_POINTS].t_us <= t_us:
                low = middle
            else:
                high = middle
        a, b = ring[low % RING_POINTS], ring[high % RING_POINTS]
        return int(a.energy_uj + (b.energy_uj - a.energy_uj) * (t_us - a.t_us) // (b.t_us - a.t_us))

    def fault(
        self,
        gpu: int,
        function: str,
        *,
        code: int,
        skip: int = 0,
        count: int | None = None,
        delay_us: int = 0,
    ) -> None:
        """Make calls of `function` on a GPU return `code` and last `delay_us` longer.

        `function` is NVML's name for it, "field 186" or "*". The rule leaves the first `skip` calls alone
        and then holds for `count` calls (None: until `heal`).
        Code 0 with a delay is a slow call that succeeds. Raises RuntimeError when all rules are in use.
        """
        for rule in self._head().rules:
            if not rule.active:
                rule.gpu, rule.function, rule.code = gpu, function.encode(), code
                rule.skip, rule.count = skip, FOREVER if count is None else count
                rule.calls, rule.delay_us = 0, delay_us
                rule.active = 1  # last: only now does the library look at the rule
                return
        raise RuntimeError(f"all {MAX_RULES} fault rules are in use")

    def heal(self, gpu: int | None = None, function: str | None = None) -> None:
        """Drop the fault rules of a GPU and a function; None stands for all. A call that hangs returns."""
        for rule in self._head().rules:
            if gpu in (None, rule.gpu) and (function is None or function.encode() == rule.function):
                rule.active = 0

    def reload_driver(self, gpu: int) -> None:
        """Start the counter over at 0, as loading the driver again does."""
        self._gpus[gpu].base_uj = self.energy_uj(gpu, monotonic_us())

    def freeze(self, gpu: int, frozen: bool) -> None:
        """Stop the counter at its present value, or let it go on (it then shows the truth again)."""
        self._gpus[gpu].frozen_us = monotonic_us() if frozen else 0

    def jump(self, gpu: int, energy_j: float) -> None:
        """Make the counter show that much more (or less) from now on, though nothing was drawn."""
        self._gpus[gpu].base_uj -= round(energy_j * 1e6)

    def distort(self, gpu: int, part: float) -> None:
        """Make the counter show this part of the truth. To be said before anybody reads it."""
        self._gpus[gpu].counter_ppm = round(part * 1e6)

    def show_power(self, gpu: int, power_w: float | None) -> None:
        """Make every power reading say this, whatever is drawn; None: the truth again."""
        self._gpus[gpu].shown_power_mw = round((power_w or 0) * 1000)

    def limit_power(self, gpu: int, power_w: float) -> None:
        """Set the power limit that is shown as in force; what is drawn does not change by it."""
        self._gpus[gpu].power_limit_mw = round(power_w * 1000)

    def close(self) -> None:
        """Unmap the file, which stays. Closing twice does nothing."""
        self._header = None
        self._gpus = []
        self._map.close()
